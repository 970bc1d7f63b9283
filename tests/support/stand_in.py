"""In place of pytest-benchmark's fixture."""


class Benchmark:
    """pytest-benchmark's fixture, as far as it is used."""

    def __init__(self):
        self.extra_info, self.group = {}, None

    def pedantic(self, target, setup, rounds):
        for _ in range(rounds):
            setup()
            target()
