# SPDX-License-Identifier: BSD-3-Clause
"""How often is each word in the reference manual that Python carries for its `help()`?

    python words.py

`Count.key` says which messages belong together; each key becomes one result.
"""

import re
from collections import Counter
from collections.abc import Iterator
from pydoc_data.topics import topics

import palm

TEXTS = list(topics.values())


class Text(palm.Butterfly):
    @palm.function
    def words(self, text: str) -> Iterator[tuple[str, int]]:
        """Those of one text are counted at once, so that one message goes on for each, not one for each occurrence."""
        yield from Counter(re.findall(r"[a-z]+", text.lower())).items()


class Count(palm.Reduce):
    def key(self, counted: tuple[str, int]) -> str:
        word, _ = counted
        return word

    @palm.function
    def add(self, a: tuple[str, int], b: tuple[str, int]) -> tuple[str, int]:
        return a[0], a[1] + b[1]


def run(workers: int = 2) -> dict[str, int]:
    with palm.Cluster() as cluster:
        cluster.start(Text, workers=workers)
        cluster.start(Count, workers=workers)
        return dict(cluster.client().job(["text.words", "count.add"], TEXTS))


if __name__ == "__main__":
    for word, n in Counter(run()).most_common(10):
        print(f"{n:6} {word}")
