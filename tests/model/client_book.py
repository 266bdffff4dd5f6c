# SPDX-License-Identifier: BSD-3-Clause
"""The protocol with a client whose record of the job is the book itself, the C code of csrc/src/book.c.

It does what a client can do that knows no more than the book tells: RELEASE goes out for what a verdict says is
complete now, a close is answered with the ranges of the node, an input is forgotten when two executions contradict each
other.
Reductions are beyond it: the book has no soft leaves yet.
"""

from __future__ import annotations

from model.config import Bad, C, child
from model.protocol import Model

from palm._core.book import COMPLETED, CONTRADICTION, INPUT_DONE, NEW, OVER, Book, depth
from palm.message import INDEX_BITS

# Seeded errors of a client that keeps its record in another way.
OWN_RECORD = ("xor-same-epoch", "complete-without-close")


def fits(cfg):
    return not cfg.reduces and cfg.bug not in OWN_RECORD


class BookModel(Model):
    def start(self):
        st = super().start()
        st.book = Book()
        st.told = st.book.dump()
        return st

    def wire(self, name):
        """Number and path of a name of wave 0."""
        number, *places = name[1]
        return number, [hop << INDEX_BITS | i for hop, i in zip(self.cfg.gens, places, strict=False)]

    def change(self, st, what, *arguments):
        """Other states have the same book: what changes is a copy."""
        st.book = st.book.copy()
        verdict = getattr(st.book, what)(*arguments)
        st.told = st.book.dump()
        return verdict

    # ---- what the client knows ---------------------------------------------------------------------------------
    def complete(self, st, name):
        if len(name[1]) == 1:
            return name[1][0] < st.pulled and name[1][0] not in st.book
        return st.book.ranges(*self.wire(name))[0] == OVER

    hard = complete

    def done(self, st):
        return st.pulled == self.cfg.inputs and not len(st.book)

    def began(self, st, number):
        self.change(st, "begin", number)

    def after(self, st):
        pass

    # ---- what comes --------------------------------------------------------------------------------------------
    def client(self, st, src, msg):
        if msg[0] == "lost":
            self.recover(st)
            return
        kind, name = msg[:2]
        number, path = self.wire(name)
        verdict = (
            self.change(st, "close", number, path, msg[2])
            if kind == "close"
            else self.change(st, "settle", number, path)
        )
        if verdict & CONTRADICTION:
            self.contradicted(st, number)
            verdict = 0
        if self.cfg.fickle:
            self.note(st, msg, verdict)
            if not verdict and number not in st.book:
                self.purge(st, number)
                return
        if kind == "res" and (verdict & NEW or self.cfg.bug == "no-result-dedupe"):
            self.deliver(st, name, msg[2])
        if kind == "close":
            self.answer(st, src, name)
        if verdict & COMPLETED:
            self.release(st, name, depth(verdict), kind == "close")
        if verdict & INPUT_DONE:
            st.freed |= {number}

    def deliver(self, st, name, val):
        if name in st.delivered:
            raise Bad(f"once: result {name} delivered twice")
        if self.cfg.results.get(name) != val and not self.cfg.fickle:
            raise Bad(f"once: result {name} is {val}, expected {self.cfg.results.get(name)}")
        st.delivered |= {name}

    def answer(self, st, src, name):
        """A close is answered with what is settled already."""
        if self.cfg.bug == "close-not-answered":
            return
        state, ranges = st.book.ranges(*self.wire(name))
        settled = [name] if state == OVER else [child(name, i) for a, b in ranges for i in range(a, b)]
        if settled:
            self.send(st, C, src, ("rel", tuple(settled)))

    def release(self, st, name, topmost, node):
        """The names from the topmost one down to this one are complete now: their keepers let go of them."""
        out = {}
        for size in range(topmost + 1, len(name[1]) + 1):
            one = (0, name[1][:size])
            if size > 1:
                out.setdefault(self.where(st, C, self.cfg.maker((0, one[1][:-1]))), []).append(one)
            if node or size < len(name[1]):
                out.setdefault(self.where(st, C, self.cfg.maker(one)), []).append(one)
        for server, names in sorted(out.items()):
            self.send(st, C, server, ("rel", tuple(sorted(set(names)))))

    # ---- executions that differ --------------------------------------------------------------------------------
    def contradicted(self, st, number):
        if self.cfg.bug == "contradiction-ignored":
            return
        if not self.cfg.fickle:
            raise Bad(f"early: input {number} contradicts itself")
        self.change(st, "forget", number)
        st.T["failed", number] = ("F",)
        st.freed |= {number}

    def note(self, st, msg, verdict):
        """For the verdict of the explorer alone: what was accepted, since a book forgets what is complete."""
        if verdict & NEW:
            st.T[msg[1]] = {"res": ("R",), "drop": ("D",), "close": ("N", msg[2] if len(msg) > 2 else 0)}[msg[0]]

    def purge(self, st, number):
        for server in sorted({self.cfg.steps[h][0] for h in self.cfg.gens}):
            self.send(st, C, server, ("purge", number))
