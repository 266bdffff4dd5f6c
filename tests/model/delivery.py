# SPDX-License-Identifier: BSD-3-Clause
"""Explores the protocol of delivery: every interleaving of small configurations, random runs of larger ones."""

from __future__ import annotations

import argparse
import random
import time

from model.client_book import BookModel, fits
from model.config import Bad, configs, large, mutations
from model.protocol import Model


def model_of(cfg):
    """With the book in C wherever that has what the configuration needs."""
    return BookModel(cfg) if fits(cfg) else Model(cfg)


def explore(cfg, limit=3_000_000):
    """Depth first over all interleavings. Returns (states, edges, finished, complaint, trace)."""
    m = model_of(cfg)
    root = m.start()
    edges = 0
    colour = {}  # key -> True while on the stack, False when left
    path = []

    def succ(st):
        acts = m.actions(st)
        if not acts:
            m.check_end(st)
        return acts + m.faults(st)

    k = hash(root.key())
    colour[k] = True
    stack = [(root, iter(succ(root)), k)]
    try:
        while stack:
            st, it, k = stack[-1]
            act = next(it, None)
            if act is None:
                colour[k] = False
                stack.pop()
                if path:
                    path.pop()
                continue
            path.append(act)
            new = m.step(st, act)
            edges += 1
            nk = hash(new.key())
            if nk in colour:
                if colour[nk]:
                    raise Bad("ends: a cycle without progress")
                path.pop()
                continue
            m.check(new)
            colour[nk] = True
            stack.append((new, iter(succ(new)), nk))
            if len(colour) >= limit:
                return len(colour), edges, False, None, None
    except Bad as e:
        return len(colour), edges, True, str(e), list(path)
    return len(colour), edges, True, None, None


def wander(cfg, runs, seed, fault=0.08):
    """Random runs of larger configurations. Faults come at random while the budget lasts."""
    m, rnd, steps = model_of(cfg), random.Random(seed), 0
    for r in range(runs):
        st, trace = m.start(), []
        try:
            while True:
                acts = m.actions(st)
                fl = m.faults(st)
                if not acts:
                    m.check_end(st)
                    break
                act = rnd.choice(fl) if fl and rnd.random() < fault else rnd.choice(acts)
                trace.append(act)
                st = m.step(st, act)
                m.check(st)
                steps += 1
                if len(trace) > 20_000:
                    raise Bad("ends: no end after 20 000 steps")
        except Bad as e:
            return r, steps, str(e), trace
    return runs, steps, None, None


def job(task):
    kind, i, runs = task
    t0 = time.time()
    if kind == "explore":
        cfg = configs()[i]
        states, edges, finished, why, trace = explore(cfg)
        ok = finished and why is None
        text = f"{states:8} states {edges:8} steps {'' if finished else 'NOT FINISHED '}{why or ''}"
    elif kind == "wander":
        cfg = large()[i]
        n, steps, why, trace = wander(cfg, runs, i)
        ok, text = why is None, f"{n:8} runs   {steps:8} steps {why or ''}"
    else:
        cfg = mutations()[i]
        states, edges, finished, why, trace = explore(cfg)
        ok, trace = why is not None, None if why else []
        text = f"{states:8} states, {why or 'MISSED'}"
    return (
        kind,
        ok,
        f"{'ok ' if ok else 'BAD'} {kind:8} {'C' if fits(cfg) else ' '} {cfg.name:50} {time.time() - t0:5.1f} s {text}",
        None if ok else trace,
    )


def main():
    ap = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    ap.add_argument("--jobs", type=int, default=2, help="processes")
    ap.add_argument("--runs", type=int, default=300, help="random runs for each large configuration")
    args = ap.parse_args()
    from concurrent.futures import ProcessPoolExecutor

    tasks = [("explore", i, 0) for i in range(len(configs()))] + [("wander", i, args.runs) for i in range(len(large()))]
    tasks += [("mutation", i, 0) for i in range(len(mutations()))]
    bad = 0
    with ProcessPoolExecutor(args.jobs) as pool:
        for _, ok, text, trace in pool.map(job, tasks):
            print(text, flush=True)
            bad += not ok
            for act in trace or ():
                print("        ", *act)
    print(f"{len(tasks) - bad} of {len(tasks)} as expected")
    return bad != 0


if __name__ == "__main__":
    raise SystemExit(main())
