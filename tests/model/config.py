# SPDX-License-Identifier: BSD-3-Clause
"""What is explored: pipelines, faults, and seeded errors."""

from __future__ import annotations

import itertools

C = "C"


class Bad(Exception):
    pass


class Config:
    """steps: (server, kind, argument). Kinds: map, drop (argument: numbers that end here), gen (argument: outputs),
    par (a generator run by worker 'V' of leader 'L', argument: outputs), reduce (argument: number of keys)."""

    def __init__(
        self,
        name,
        steps,
        inputs=1,
        deaths=0,
        cuts=0,
        window=2,
        inbox=False,
        unwatched=(),
        ckpt=0,
        mortal=None,
        cuttable=None,
        usurper=None,
        fickle=False,
        bug=None,
    ):
        self.name, self.steps, self.inputs, self.deaths, self.cuts = name, steps, inputs, deaths, cuts
        self.window, self.inbox, self.unwatched, self.ckpt = window, inbox, unwatched, ckpt
        self.usurper, self.fickle, self.bug = usurper, fickle, bug
        self.servers = sorted({s for s, _, _ in steps})
        if any(k == "par" for _, k, _ in steps):
            self.servers.append("V")
        self.servers += [usurper] * bool(usurper)
        self.mortal = self.servers if mortal is None else mortal
        self.reduces = [h for h, (_, k, _) in enumerate(steps) if k == "reduce"]
        self.wave = {h: i + 1 for i, h in enumerate(self.reduces)}
        self.origin = {i + 1: h for i, h in enumerate(self.reduces)}
        self.gens = [h for h, (_, k, _) in enumerate(steps) if k in ("gen", "par")]
        links = set()
        for s in self.servers:
            links.add(("V", "L") if s == "V" else pair(C, s))
        if usurper:
            links |= {pair(usurper, s) for s in self.servers if s != usurper}
        for a, b in itertools.pairwise(steps):
            if a[0] != b[0]:
                links.add(pair(a[0], b[0]))
        self.links = {pair(*link) for link in links}
        self.cuttable = sorted(self.links) if cuttable is None else [pair(*link) for link in cuttable]
        self.expect()

    def expect(self):
        """Run the pipeline without faults or order: names of the results and their contents."""
        live = [((0, (i,)), ((0, (i,)),), 0) for i in range(self.inputs)]
        results, held = {}, {h: [] for h in self.reduces}
        for inst in [None] + self.reduces:
            if inst is not None:
                live = [((self.wave[inst], (j,)), tot, inst + 1) for j, tot in enumerate(totals(held[inst]))]
            while live:
                name, val, hop = live.pop()
                if hop == len(self.steps):
                    results[name] = val
                    continue
                _, kind, arg = self.steps[hop]
                if kind == "map":
                    live.append((name, val, hop + 1))
                elif kind == "drop":
                    if name[1][0] not in arg:
                        live.append((name, val, hop + 1))
                elif kind in ("gen", "par"):
                    live += [(child(name, i), tag(val, name, i), hop + 1) for i in range(arg)]
                else:
                    held[hop].append((name, val, name[1][-1] % arg))
        self.results = results
        self.leaves = {h: frozenset(n for n, _, _ in held[h]) for h in self.reduces}

    def maker(self, name):
        """The hop whose generator (or flush) runs the node `name`; None if the name never fans out."""
        w, path = name
        start = 0 if w == 0 else self.origin[w]
        if w and not path:
            return start
        later = [g for g in self.gens if g >= start]
        d = len(path) - 1
        return later[d] if d < len(later) else None


def pair(a, b):
    return (a, b) if a < b else (b, a)


def child(name, i):
    return (name[0], name[1] + (i,))


def tag(val, name, i):
    return tuple((w, p + (i,)) if (w, p) == name else (w, p) for w, p in val)


def totals(items):
    """One total for each key, by rank of the key. items: (name, value, key); value: a multiset of leaves as a tuple."""
    keys = sorted({k for _, _, k in items})
    return [tuple(sorted(leaf for _, v, k in items if k == key for leaf in v)) for key in keys]


def m(server, arg=None, kind="map"):
    return (server, kind, arg)


def configs():
    """What is explored to the end. One fault more costs about a factor of ten."""
    A, B, D = m("A"), m("B"), m("D")
    gen, gen1, red, par = m("A", 2, "gen"), m("A", 1, "gen"), m("R", 1, "reduce"), m("L", 2, "par")
    return [
        Config("linear, 2 deaths", [A, B], deaths=2),
        Config("linear, 2 cuts", [A, B], cuts=2),
        Config("queues with repeats in them", [A, B], deaths=1, cuts=1, inbox=True),
        Config("filter, 2 inputs", [m("A", (1,), "drop"), B], inputs=2, deaths=1, inbox=True),
        Config("A server twice", [A, B, A], deaths=1, cuts=1),
        Config("client sees the first server only", [A, B, D], deaths=2, unwatched=("B", "D"), inbox=True),
        Config("fan-out, death", [gen, B], deaths=1),
        Config("fan-out, cut", [gen, B], cuts=1),
        Config("fan-out, 2 deaths after it", [gen, B], deaths=2, mortal=["B"]),
        Config("fan-out, death and cut", [gen1, B], deaths=1, cuts=1),
        Config("fan-out of fan-out", [gen1, m("B", 2, "gen")], deaths=1),
        Config("fan-out and filter, 2 inputs", [gen1, m("B", (1,), "drop")], inputs=2, deaths=1),
        Config("leader and worker, 2 deaths", [par], deaths=2, mortal=["L", "V"]),
        Config("leader and worker, death and cut", [par], deaths=1, cuts=1),
        Config("leader and worker, then a step", [par, B], deaths=1),
        Config("reduce, 2 inputs", [A, red], inputs=2, deaths=1, ckpt=1),
        Config("reduce, 2 deaths", [A, red], deaths=2, ckpt=1),
        Config("reduce, death and cut", [A, red], deaths=1, cuts=1, mortal=["R"], cuttable=[(C, "R"), ("A", "R")]),
        Config("reduce, 2 cuts", [A, red], cuts=2, cuttable=[(C, "R")]),
        Config("reduce by 2 keys, then a step", [m("R", 2, "reduce"), B], inputs=2, deaths=1),
        Config("filter and reduce", [m("A", (0,), "drop"), red], inputs=2, deaths=1, ckpt=1),
        Config("fan-out and reduce", [gen, red], deaths=1, ckpt=1, mortal=["R"]),
        Config("reduce after reduce", [red, m("Q", 1, "reduce")], deaths=1, ckpt=1),
        Config("reduce twice on one server", [red, red], deaths=1, cuts=1),
        Config("reduce, step, the same reduce", [red, B, red], deaths=1),
        Config("fan-out, reduce, fan-out", [gen1, red, gen1], deaths=1),
        Config("two leaders of a reduce", [A, red], inputs=2, usurper="R2"),
        Config("number of outputs differs", [gen, B], deaths=1, fickle=True),
    ]


def large():
    """What is only sampled."""
    return [
        Config(
            "all templates",
            [
                m("A", 3, "gen"),
                m("B", (1,), "drop"),
                m("A"),
                m("R", 2, "reduce"),
                m("B", 2, "gen"),
                m("R", 1, "reduce"),
                m("A"),
            ],
            inputs=3,
            deaths=3,
            cuts=3,
            ckpt=4,
        ),
        Config(
            "leader, filter, fan-out",
            [m("A", (1,), "drop"), m("L", 3, "par"), m("B", 2, "gen"), m("A")],
            inputs=4,
            deaths=4,
            cuts=3,
            inbox=True,
        ),
        Config("long line", [m("A"), m("B"), m("D"), m("E")], inputs=4, deaths=5, cuts=2, unwatched=("B", "D", "E")),
        Config(
            "two reduces",
            [m("L", 2, "par"), m("R", 2, "reduce"), m("Q", 2, "reduce"), m("A")],
            inputs=4,
            deaths=4,
            cuts=3,
            window=3,
            ckpt=5,
        ),
        Config(
            "two leaders, deaths and cuts",
            [m("A", 2, "gen"), m("R", 2, "reduce"), m("A")],
            inputs=3,
            deaths=3,
            cuts=2,
            window=3,
            ckpt=3,
            usurper="R2",
        ),
        Config(
            "number of outputs differs",
            [m("A", 3, "gen"), m("B"), m("D", 2, "gen")],
            inputs=3,
            deaths=3,
            cuts=2,
            fickle=True,
        ),
    ]


def mutations():
    """Seeded errors; each has to be found."""
    A, B, gen, red = m("A"), m("B"), m("A", 2, "gen"), m("R", 1, "reduce")
    return [
        Config(
            "XOR of ids, repeats under the same epoch",
            [m("A", (1,), "drop"), m("B", 2, "gen")],
            deaths=1,
            bug="xor-same-epoch",
        ),
        Config("complete before the generator has ended", [gen], bug="complete-without-close"),
        Config("a sender does not report a lost link", [A, B], deaths=1, bug="loss-not-reported"),
        Config("a sender reports what was not taken only", [A, B], deaths=1, unwatched=("B",), bug="untaken-only"),
        Config("a keeper does not send again", [gen, B], deaths=1, bug="keeper-does-not-resend"),
        Config("the end of a generator is said once", [gen], cuts=1, bug="close-not-repeated"),
        Config("the end of a generator is not answered", [gen, B], deaths=1, bug="close-not-answered"),
        Config("results are not compared by name", [A, B], deaths=1, bug="no-result-dedupe"),
        Config("leaves are not compared by name", [A, red], deaths=1, bug="no-reduce-dedupe"),
        Config("absorbed counts after the reducer's death", [A, red], deaths=1, bug="absorbed-is-final"),
        Config("inputs are freed when absorbed", [A, red], deaths=1, bug="release-when-absorbed"),
        Config("absorbed by a deposed leader counts", [A, red], deaths=1, usurper="R2", bug="stale-absorb-accepted"),
        Config("reopened, a living reducer says nothing", [A, red], cuts=1, bug="open-silent"),
        Config("reopened, a living reducer throws away silently", [A, red], cuts=1, bug="open-discards"),
        Config(
            "a flushed reduce is not reopened", [A, red], inputs=2, deaths=1, cuts=1, ckpt=1, bug="closed-not-opened"
        ),
        Config("contradicting counts are ignored", [gen, B], deaths=2, fickle=True, bug="contradiction-ignored"),
    ]
