# SPDX-License-Identifier: BSD-3-Clause
"""Exhaustive model of PALM's delivery protocol: completion, redelivery, Reduce and flush, with faults at every point.

A configuration is a pipeline, a number of inputs and a budget of faults. The explorer visits every interleaving of
deliveries, executions, deaths (the process is replaced at once, empty; others notice later, each for itself), link cuts
(both ends live, what is in flight on the link is lost) and notices of them. It checks

  early     when the job ends, the results are exactly the expected ones (so it never ends early)
  once      no result is handed out twice; a Reduce emits each leaf exactly once
  retained  what has to be sent again is still held by somebody
  ends      every run without further faults ends in a completed job: no stuck state, no cycle
  clean     at the end no server keeps anything for the job that the client did not release

A name is (wave, path): wave 0 holds the inputs, path[0] is the input's number, each further component the place in the
output of one generator. Wave w > 0 holds what the w-th Reduce emits, path[0] is the rank of the key.
"""

from __future__ import annotations

import itertools

from model.config import Bad, C, child, pair, tag, totals


class State:
    __slots__ = (
        "q",
        "ep",
        "seen",
        "lead",
        "deaths",
        "cuts",
        "pulled",
        "T",
        "delivered",
        "freed",
        "inc",
        "ckpt",
        "fl",
        "rel",
        "keep",
        "red",
        "pend",
        "inbox",
        "work",
        "nck",
        "book",  # model.client_book alone: the book, and its dump
        "told",
    )

    def clone(self):
        n = State.__new__(State)
        n.q, n.ep, n.seen, n.lead = self.q.copy(), self.ep.copy(), self.seen.copy(), self.lead
        n.deaths, n.cuts, n.pulled = self.deaths, self.cuts, self.pulled
        n.T, n.delivered, n.freed = self.T.copy(), self.delivered, self.freed
        n.inc, n.ckpt, n.fl, n.rel = self.inc.copy(), self.ckpt.copy(), self.fl.copy(), self.rel
        n.keep = {s: k.copy() for s, k in self.keep.items()}
        n.red = self.red.copy()
        n.pend, n.inbox, n.work, n.nck = self.pend.copy(), self.inbox.copy(), self.work.copy(), self.nck
        n.book, n.told = self.book, self.told
        return n

    def key(self):
        return (
            frozenset(self.q.items()),
            frozenset(self.ep.items()),
            frozenset(self.seen.items()),
            self.lead,
            self.deaths,
            self.cuts,
            self.pulled,
            frozenset(self.T.items()),
            self.told,
            self.delivered,
            self.freed,
            frozenset(self.inc.items()),
            frozenset(self.ckpt.items()),
            frozenset(self.fl.items()),
            self.rel,
            tuple([frozenset(self.keep[s].items()) for s in sorted(self.keep)]),
            frozenset(self.red.items()),
            frozenset(self.pend.items()),
            frozenset(self.inbox.items()),
            frozenset(self.work.items()),
            self.nck,
        )


class Model:
    def __init__(self, cfg):
        self.cfg = cfg

    # ---- links -------------------------------------------------------------------------------------------------
    def send(self, st, src, dst, msg):
        """Append to the link if the sender's idea of it is current, else the message goes into the void."""
        if src != dst and st.seen.get((src, dst), 0) != st.ep.get(pair(src, dst), 0):
            self.untaken(st, src, dst)
            return
        st.q[src, dst] = st.q.get((src, dst), ()) + ((st.ep.get(pair(src, dst), 0), msg),)

    def untaken(self, st, src, dst):
        if self.cfg.bug == "untaken-only":  # remembers that this link has lost something
            st.work["untaken", src, dst] = 1

    def drop_old(self, st, src, dst):
        keep = tuple(m for m in st.q.get((src, dst), ()) if m[0] >= st.seen.get((dst, src), 0))
        if keep:
            st.q[src, dst] = keep
        else:
            st.q.pop((src, dst), None)

    def bump(self, st, a, b):
        st.ep[pair(a, b)] = st.ep.get(pair(a, b), 0) + 1

    def where(self, st, who, hop):
        """The process that `who` takes for the server of a step: who leads is learnt by each for itself."""
        server = self.cfg.steps[hop][0]
        return self.cfg.usurper if self.cfg.usurper and server == "R" and who in st.lead else server

    # ---- start -------------------------------------------------------------------------------------------------
    def start(self):
        cfg, st = self.cfg, State()
        st.q, st.ep, st.seen, st.lead = {}, {}, {}, frozenset()
        st.deaths, st.cuts, st.pulled, st.nck = cfg.deaths, cfg.cuts, 0, cfg.ckpt
        st.T, st.delivered, st.freed, st.rel = {}, frozenset(), frozenset(), frozenset()
        st.inc = {h: 0 for h in cfg.reduces}
        st.ckpt = {h: () for h in cfg.reduces}
        st.fl = {h: -1 for h in cfg.reduces}
        st.keep = {s: {} for s in cfg.servers}
        st.red = {}  # (hop, server): incarnation, absorbed items, names in the last checkpoint
        for h in cfg.reduces:
            st.red[h, cfg.steps[h][0]] = (0, (), ())
            if cfg.usurper:
                st.red[h, cfg.usurper] = (-1, (), ())
        st.pend, st.inbox, st.work = {}, {}, {}
        st.book = st.told = None
        return st

    def began(self, st, number):
        """An input was taken in."""

    # ---- the client --------------------------------------------------------------------------------------------
    def complete(self, st, name):
        if self.cfg.bug == "xor-same-epoch" and name[0] == 0 and len(name[1]) == 1:
            return st.T.get(("xor", name[1][0])) == frozenset()
        if self.cfg.bug == "complete-without-close" and name not in st.T:
            below = [n for n in st.T if n[0] == name[0] and n[1][:-1] == name[1]]
            return bool(below) and all(self.complete(st, n) for n in below)
        if self.cfg.fickle and ("failed", name[1][0]) in st.T:
            return True
        s = st.T.get(name)
        if s is None:
            return False
        if s[0] == "N":
            return s[1] >= 0 and all(self.complete(st, child(name, i)) for i in range(s[1]))
        return True

    def hard(self, st, name):
        """Complete, and no death can undo it."""
        if self.cfg.bug == "xor-same-epoch" and name[0] == 0 and len(name[1]) == 1:
            return self.complete(st, name)
        s = st.T.get(name)
        if s is None:
            return False
        if s[0] == "N":
            return s[1] >= 0 and all(self.hard(st, child(name, i)) for i in range(s[1]))
        if s[0] == "A":
            if self.cfg.bug == "release-when-absorbed":
                return True
            return any(n == name for n, _, _ in st.ckpt[s[1]]) or self.hard(st, (self.cfg.wave[s[1]], ()))
        return True

    def done(self, st):
        return (
            st.pulled == self.cfg.inputs
            and all(self.complete(st, (0, (i,))) for i in range(st.pulled))
            and all(self.complete(st, (w, ())) for w in self.cfg.origin)
        )

    def settle(self, st, name, status):
        """First outcome of a name wins. It is a node's or a leaf's, never both, if functions are deterministic."""
        if name not in st.T:
            st.T[name] = status

    def toggle(self, st, names):
        """An acker with perfect ids: the XOR of what is in flight, as a set. Repeats toggle too, and there it fails."""
        if self.cfg.bug == "xor-same-epoch" and names[0][0] == 0:
            k = ("xor", names[0][1][0])
            acc = st.T.get(k, frozenset([(0, (k[1],))]))
            if not acc:
                return  # complete, and forgotten
            for n in names:
                acc ^= {n}
            st.T[k] = acc

    def after(self, st):
        """Frees inputs, releases what keepers hold, flushes what is due."""
        cfg = self.cfg
        out = {}
        for name in list(st.T):
            if name[0] in ("xor", "failed") or name in st.rel or not self.hard(st, name):
                continue
            st.rel |= {name}
            w, path = name
            if path and (w or len(path) > 1):
                out.setdefault(self.where(st, C, cfg.maker((w, path[:-1]))), []).append(name)
            if st.T[name][0] == "N":
                out.setdefault(self.where(st, C, cfg.maker(name)), []).append(name)
            if w == 0 and len(path) == 1:
                st.freed |= {path[0]}
        for server, names in sorted(out.items()):
            self.send(st, C, server, ("rel", tuple(sorted(names))))
        if st.pulled < cfg.inputs or not all(self.complete(st, (0, (i,))) for i in range(st.pulled)):
            return
        for h in cfg.reduces:
            if self.complete(st, (cfg.wave[h], ())):
                continue
            if st.fl[h] != st.inc[h]:
                st.fl[h] = st.inc[h]
                self.send(st, C, self.where(st, C, h), ("flush", h, st.inc[h]))
            break

    def recover(self, st):
        """Something may be lost: everything unfinished is sent again, by the client and by the keepers."""
        cfg = self.cfg
        for s in sorted({self.where(st, C, h) for h in cfg.gens + cfg.reduces}):
            self.send(st, C, s, ("resend",))
        for i in range(st.pulled):
            if not self.complete(st, (0, (i,))):
                if i in st.freed:
                    raise Bad(f"retained: input {i} is needed again and was freed")
                self.data(st, C, (0, (i,)), ((0, (i,)),), 0)

    def reopen(self, st, server):
        """The client has lost touch with a server: its reductions get a new incarnation, from their last checkpoint."""
        for h in self.cfg.reduces:
            if self.where(st, C, h) != server:
                continue
            closed = self.hard(st, (self.cfg.wave[h], ()))
            if closed and self.cfg.bug == "closed-not-opened":
                continue
            st.inc[h] += 1
            covered = {n for n, _, _ in st.ckpt[h]}
            for name, s in list(st.T.items()):
                if s == ("A", h) and name not in covered and not closed and self.cfg.bug != "absorbed-is-final":
                    del st.T[name]
            self.send(st, C, server, ("open", h, st.inc[h], st.ckpt[h]))

    def contradiction(self, st, name, n=None):
        """Two executions disagree on how many outputs there are: the input fails, what else of it is under way is void.
        Returns whether `name` is void: of a failed input, or a stranger in a tree that is complete."""
        w, path = name
        if ("failed", path[0]) in st.T:
            return True
        if self.complete(st, (0, path[:1])):
            return name not in st.T or (n is not None and st.T[name] != ("N", n))
        clash = n is not None and (
            st.T.get(name, ("N", n)) != ("N", n)
            or any(
                k[0] == w and k[1][: len(path)] == path and len(k[1]) > len(path) and k[1][len(path)] >= n for k in st.T
            )
        )
        for d in range(1, len(path)):
            s = st.T.get((w, path[:d]))
            clash |= s is not None and (s[0] != "N" or path[d] >= s[1])
        if clash and self.cfg.bug != "contradiction-ignored":
            st.T["failed", path[0]] = ("F",)
            st.rel |= {k for k in st.T if k[0] == w and k[1][0] == path[0]}
            st.freed |= {path[0]}
        return ("failed", path[0]) in st.T

    def client(self, st, src, msg):
        cfg, kind = self.cfg, msg[0]
        if cfg.fickle and kind in ("res", "drop", "close"):
            if self.contradiction(st, msg[1], msg[2] if kind == "close" else None):
                for server in sorted(
                    {cfg.steps[h][0] for h in cfg.gens}
                ):  # a failed input is purged wherever it shows up
                    self.send(st, C, server, ("purge", msg[1][1][0]))
                self.after(st)
                return
        if kind == "res":
            _, name, val = msg
            self.toggle(st, [name])
            if name not in st.T or cfg.bug == "no-result-dedupe":
                if name in st.delivered:
                    raise Bad(f"once: result {name} delivered twice")
                if cfg.results.get(name) != val and not cfg.fickle:
                    raise Bad(f"once: result {name} is {val}, expected {cfg.results.get(name)}")
                st.delivered |= {name}
                self.settle(st, name, ("R",))
        elif kind == "drop":
            self.toggle(st, [msg[1]])
            self.settle(st, msg[1], ("D",))
        elif kind == "close":
            _, name, n = msg
            self.toggle(st, [name] + [child(name, i) for i in range(n)])
            self.settle(st, name, ("N", n))
            known = [child(name, i) for i in range(n) if self.hard(st, child(name, i))] + [name] * self.hard(st, name)
            again = tuple(sorted(x for x in known if x in st.rel))  # a close is answered with what is settled already
            if again and cfg.bug != "close-not-answered":
                self.send(st, C, src, ("rel", again))
        elif kind == "abs":
            _, h, inc, names = msg
            closed = self.hard(st, (cfg.wave[h], ())) and cfg.bug != "closed-not-opened"  # all that it needed was in it
            if inc == st.inc[h] or closed or cfg.bug == "stale-absorb-accepted":
                for name in names:
                    self.settle(st, name, ("A", h))
        elif kind == "ckpt":
            _, h, inc, items = msg
            if inc == st.inc[h]:
                st.ckpt[h] = items
                for name, _, _ in items:
                    self.settle(st, name, ("A", h))
        elif kind == "lost":
            self.recover(st)
        self.after(st)

    # ---- servers -----------------------------------------------------------------------------------------------
    def data(self, st, src, name, val, hop):
        cfg = self.cfg
        if hop == len(cfg.steps):
            self.send(st, src, C, ("res", name, val))
            return
        self.send(st, src, self.where(st, src, hop), ("m", name, val, hop))

    def server(self, st, me, src, msg):
        cfg, kind = self.cfg, msg[0]
        if kind == "m":
            if cfg.inbox and cfg.steps[msg[3]][1] in ("map", "drop"):
                box = st.inbox.get(me, ())
                if msg not in box:  # a repeat of what waits here already is not needed
                    st.inbox[me] = box + (msg,)
                return
            self.execute(st, me, msg)
        elif kind == "rel":
            for name in msg[1]:
                for node, (val, pos, ended, out) in list(st.keep[me].items()):
                    if node[0] == name and ended:  # the whole node is settled
                        del st.keep[me][node]
                    elif node[0] == (name[0], name[1][:-1]) and name[1]:
                        st.keep[me][node] = (val, pos, ended, tuple(c for c in out if c[0] != name))
        elif kind == "purge":
            for node in [k for k in st.keep[me] if k[0][1][0] == msg[1]]:
                del st.keep[me][node]
        elif kind == "resend":
            for node, (_, pos, ended, out) in sorted(st.keep[me].items()):
                for name, v in out:
                    if cfg.bug != "keeper-does-not-resend":
                        self.data(st, me, name, v, node[1] + 1)
                if ended and cfg.bug != "close-not-repeated":
                    self.send(st, me, C, ("close", node[0], pos))
        elif kind == "open":
            _, h, inc, items = msg
            old = st.red[h, me]
            if (
                old[0] >= 0 and cfg.bug != "open-discards"
            ):  # it lives, only the link was cut: it keeps what it has, and says so
                st.red[h, me] = (inc, old[1], old[2])
                if old[1] and cfg.bug != "open-silent":
                    self.send(st, me, C, ("abs", h, inc, tuple(n for n, _, _ in old[1])))
            else:
                st.red[h, me] = (inc, items, tuple(n for n, _, _ in items))
                for node in [n for n in st.keep[me] if n == ((cfg.wave[h], ()), h)]:
                    del st.keep[me][node]
            waiting, st.pend[h, me] = st.pend.get((h, me), ()), ()
            for m in waiting:
                self.execute(st, me, m)
            st.pend.pop((h, me), None)
        elif kind == "flush":
            _, h, inc = msg
            node = ((cfg.wave[h], ()), h)
            if st.red[h, me][0] == inc and node not in st.keep[me]:
                have = [n for n, _, _ in st.red[h, me][1]]
                if cfg.bug != "no-reduce-dedupe" and frozenset(have) != cfg.leaves[h]:
                    raise Bad(f"early: flush of {h} with {sorted(have)}")
                st.keep[me][node] = (tuple(totals(st.red[h, me][1])), 0, False, ())
        elif kind == "task":  # worker V: runs one generator for its leader
            st.work["V"] = tuple(t for t in st.work.get("V", ()) if t[0] != msg[1]) + ((msg[1], msg[2], 0),)
        elif kind == "out":
            _, node, i = msg
            if node in st.keep[me]:
                val, pos, ended, out = st.keep[me][node]
                if i == pos or cfg.bug == "leader-no-dedupe":
                    self.emit(st, me, node, val, i)
                    pos = i
                    val, _, ended, out = st.keep[me][node]
        elif kind == "end":
            _, node, n = msg
            if node in st.keep[me]:
                val, pos, ended, out = st.keep[me][node]
                if not ended:
                    st.keep[me][node] = (val, n, True, out)
                    self.send(st, me, C, ("close", node[0], n))

    def execute(self, st, me, msg):
        cfg = self.cfg
        _, name, val, hop = msg
        _, kind, arg = cfg.steps[hop]
        if kind == "map" or (kind == "drop" and name[1][0] not in arg):
            self.data(st, me, name, val, hop + 1)
        elif kind == "drop":
            self.send(st, me, C, ("drop", name))
        elif kind in ("gen", "par"):
            if (name, hop) not in st.keep[me]:  # a keeper looks after what it has itself
                st.keep[me][name, hop] = (val, 0, False, ())
                if kind == "par":
                    self.send(st, me, "V", ("task", (name, hop), arg))
        else:
            inc, items, last = st.red[hop, me]
            if inc < 0:
                st.pend[hop, me] = st.pend.get((hop, me), ()) + (
                    (msg,) if msg not in st.pend.get((hop, me), ()) else ()
                )
                return
            known = any(n == name for n, _, _ in items)
            if known and cfg.bug != "no-reduce-dedupe":
                return
            st.red[hop, me] = (inc, tuple(sorted(items + ((name, val, name[1][-1] % arg),))), last)
            self.send(st, me, C, ("abs", hop, inc, (name,)))

    def emit(self, st, me, node, val, i):
        (name, hop) = node
        if self.cfg.steps[hop][1] == "reduce":
            v = val[i]
        else:
            v = tag(val, name, i)
        _, pos, ended, out = st.keep[me][node]
        c = child(name, i)
        st.keep[me][node] = (val, max(pos, i + 1), ended, out + ((c, v),))
        self.data(st, me, c, v, hop + 1)

    # ---- what may happen next ----------------------------------------------------------------------------------
    def actions(self, st):
        cfg, acts = self.cfg, []
        for (src, dst), msgs in st.q.items():
            if src == dst or msgs[0][0] == st.seen.get((dst, src), 0):
                acts.append(("deliver", src, dst))
        for (a, b), e in st.ep.items():
            for me, peer in ((a, b), (b, a)):
                if st.seen.get((me, peer), 0) < e:
                    acts.append(("notice", me, peer))
        for s in cfg.servers:
            for node, (_, pos, ended, _) in st.keep[s].items():
                if not ended and cfg.steps[node[1]][1] != "par":
                    acts.append(("yield", s, node))
                    if cfg.fickle and 0 < pos < cfg.steps[node[1]][2]:
                        acts.append(("stop", s, node))
        for s, box in st.inbox.items():
            if box:
                acts.append(("exec", s, 0))
        if st.work.get("V"):
            acts.append(("work", "V", 0))
        if st.nck:
            for (h, s), (inc, items, last) in st.red.items():
                if inc >= 0 and tuple(n for n, _, _ in items) != last:
                    acts.append(("ckpt", h, s))
        if cfg.usurper and st.lead and not st.lead >= self.senders():
            acts += [("follow", s, 0) for s in sorted(self.senders() - st.lead)]
        if (
            st.pulled < cfg.inputs
            and st.pulled - sum(self.complete(st, (0, (i,))) for i in range(st.pulled)) < cfg.window
        ):
            acts.append(("pull", 0, 0))
        return acts

    def faults(self, st):
        if self.done(st):
            return []
        acts = [("die", s, 0) for s in self.cfg.mortal] if st.deaths else []
        if st.cuts:
            acts += [("cut", a, b) for a, b in self.cfg.cuttable]
        if self.cfg.usurper and not st.lead:
            acts.append(("usurp", 0, 0))
        return acts

    def step(self, old, act):
        cfg, st = self.cfg, old.clone()
        kind, a, b = act
        if kind == "deliver":
            msgs = st.q[a, b]
            if len(msgs) > 1:
                st.q[a, b] = msgs[1:]
            else:
                del st.q[a, b]
            if b == C:
                self.client(st, a, msgs[0][1])
            else:
                self.server(st, b, a, msgs[0][1])
        elif kind == "notice":
            self.notice(st, a, b)
        elif kind == "stop":  # this time the generator ends early
            val, pos, ended, out = st.keep[a][b]
            st.keep[a][b] = (val, pos, True, out)
            self.send(st, a, C, ("close", b[0], pos))
        elif kind == "yield":
            val, pos, ended, out = st.keep[a][b]
            n = len(val) if cfg.steps[b[1]][1] == "reduce" else cfg.steps[b[1]][2]
            if pos < n:
                self.emit(st, a, b, val, pos)
            else:
                st.keep[a][b] = (val, pos, True, out)
                self.send(st, a, C, ("close", b[0], n))
        elif kind == "exec":
            box = st.inbox[a]
            if len(box) > 1:
                st.inbox[a] = box[1:]
            else:
                del st.inbox[a]
            self.execute(st, a, box[0])
        elif kind == "work":
            (node, n, pos), *rest = st.work["V"]
            self.send(st, "V", "L", ("out", node, pos) if pos < n else ("end", node, n))
            new = (((node, n, pos + 1),) if pos < n else ()) + tuple(rest)
            if new:
                st.work["V"] = new
            else:
                del st.work["V"]
        elif kind == "ckpt":
            inc, items, _ = st.red[a, b]
            st.red[a, b] = (inc, items, tuple(n for n, _, _ in items))
            st.nck -= 1
            self.send(st, b, C, ("ckpt", a, inc, items))
        elif kind == "pull":
            st.pulled += 1
            self.began(st, st.pulled - 1)
            self.data(st, C, (0, (st.pulled - 1,)), ((0, (st.pulled - 1,)),), 0)
        elif kind == "die":
            self.die(st, a)
        elif kind == "cut":
            st.cuts -= 1
            self.bump(st, a, b)
        elif kind == "usurp":  # the client hears of another leader; the old one lives and works
            st.lead = frozenset([C])
            self.reopen(st, cfg.usurper)
            self.recover(st)
            self.after(st)
        elif kind == "follow":
            st.lead |= {a}
            if cfg.bug != "loss-not-reported":
                self.send(st, a, C, ("lost", a))
        return st

    def senders(self):
        """Those who send to the leader: they learn of a new one each in its own time."""
        return {a[0] for a, b in itertools.pairwise(self.cfg.steps) if b[0] == "R"}

    def die(self, st, s):
        cfg = self.cfg
        st.deaths -= 1
        st.keep[s] = {}
        st.inbox.pop(s, None)
        if s == "V":
            st.work.pop("V", None)
        for h, server in list(st.red):
            if server == s:
                st.red[h, s] = (-1, (), ())
                st.pend.pop((h, s), None)
        st.q.pop((s, s), None)
        for link in cfg.links:
            if s in link:
                peer = link[0] if link[1] == s else link[1]
                self.bump(st, *link)
                st.seen[s, peer] = st.ep[link]
                if st.q.pop((peer, s), None):
                    self.untaken(st, peer, s)
                if peer == C and s in cfg.unwatched:  # the client has no eye on this one
                    st.seen[C, s] = st.ep[link]
                    self.drop_old(st, s, C)

    def notice(self, st, me, peer):
        cfg = self.cfg
        st.seen[me, peer] = st.ep[pair(me, peer)]
        self.drop_old(st, peer, me)
        if me == C:
            self.reopen(st, peer)
            self.recover(st)
            self.after(st)
        elif me == "V":
            st.work.pop("V", None)
        elif peer == "V":
            for node, (_, _, ended, _) in sorted(st.keep[me].items()):
                if not ended and cfg.steps[node[1]][1] == "par":
                    self.send(st, me, "V", ("task", node, cfg.steps[node[1]][2]))
        elif cfg.bug == "untaken-only":
            if st.work.pop(("untaken", me, peer), None):
                self.send(st, me, C, ("lost", me))
        elif cfg.bug != "loss-not-reported":
            self.send(st, me, C, ("lost", me))

    # ---- verdicts ----------------------------------------------------------------------------------------------
    def check_end(self, st):
        if not self.done(st):
            raise Bad("ends: stuck, nothing can happen and the job is not complete")
        if set(self.cfg.results) != st.delivered and not self.cfg.fickle:
            raise Bad(f"early: results {sorted(st.delivered)}, expected {sorted(self.cfg.results)}")
        for s, k in st.keep.items():
            if k and not (self.cfg.usurper and s == "R"):
                raise Bad(f"clean: {s} still keeps {sorted(k)}")

    def whole(self, st, name):
        s = st.T[name]
        if s[0] != "N":
            return s == ("D",) or name in st.delivered
        return all(self.whole(st, child(name, i)) for i in range(s[1])) and not any(
            k[0] == name[0] and k[1][:-1] == name[1] and k[1][-1] >= s[1] for k in st.T
        )

    def check(self, st):
        if self.cfg.fickle:  # either the outputs of a consistent tree, or a failed input
            for i in range(st.pulled):
                if self.complete(st, (0, (i,))) and ("failed", i) not in st.T and not self.whole(st, (0, (i,))):
                    raise Bad(f"early: input {i} ended with {sorted(st.delivered)}")
        elif self.done(st) and set(self.cfg.results) != st.delivered:
            raise Bad(f"early: complete with {sorted(st.delivered)}, expected {sorted(self.cfg.results)}")
