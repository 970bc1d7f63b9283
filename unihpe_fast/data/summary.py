"""What became of a dataset's samples, as tables that stay readable with hundreds of actions."""

from collections import Counter
from collections.abc import Iterator

from rich.table import Table

from unihpe_fast.data.sources import Tally
from unihpe_fast.metrics import action_name

# rows of a table; the rest is summed up in one more
LONGEST = 40


def summary_tables(dataset: str, written: Counter[tuple[str, str]], tally: Tally) -> Iterator[Table]:
    """Samples written, and skipped with the reasons, by subject and action.

    written: samples by (subject, action). Where there are too many pairs for one table there are two, by subject and by
    action, whose takes are pooled; each shows the `LONGEST` rows with the most samples and sums up the others.
    """
    skipped: Counter[tuple[str, str]] = Counter()
    reasons: dict[tuple[str, str], Counter[str]] = {}
    for (subject, action, reason), count in tally.skipped.items():
        skipped[subject, action] += count
        reasons.setdefault((subject, action), Counter())[reason] += count
    pairs = sorted(written.keys() | skipped.keys())
    if len(pairs) <= LONGEST:
        yield _table(dataset, ("subject", "action"), {pair: [pair] for pair in pairs}, written, skipped, reasons)
        return
    for name, column in (("subject", 0), ("action", 1)):
        groups: dict[tuple[str, ...], list[tuple[str, str]]] = {}
        for pair in pairs:
            key = action_name(pair[1]) if column else pair[0]
            groups.setdefault((key,), []).append(pair)
        yield _table(dataset, (name,), groups, written, skipped, reasons)


def _table(
    dataset: str,
    headers: tuple[str, ...],
    groups: dict[tuple[str, ...], list[tuple[str, str]]],
    written: Counter[tuple[str, str]],
    skipped: Counter[tuple[str, str]],
    reasons: dict[tuple[str, str], Counter[str]],
) -> Table:
    title = f"{dataset}: samples" + (f" by {headers[0]}" if len(headers) == 1 else "")
    table = Table(*headers, title=title, show_footer=True)
    table.add_column("written", str(written.total()), justify="right")
    table.add_column("skipped", str(skipped.total()), justify="right")
    table.add_column("why", ", ".join(_why(reasons, list(reasons))) if len(groups) > 1 else "")
    largest = sorted(groups, key=lambda key: -sum(written[pair] + skipped[pair] for pair in groups[key]))
    shown = sorted(largest[:LONGEST])
    rest = [pair for key in largest[LONGEST:] for pair in groups[key]]
    rows = [(key, groups[key]) for key in shown]
    if rest:
        others = f"{len(groups) - LONGEST} others"
        rows.append(((others, *[""] * (len(headers) - 1)), rest))
    for key, pairs in rows:
        counts = (sum(counter[pair] for pair in pairs) for counter in (written, skipped))
        table.add_row(*key, *map(str, counts), ", ".join(_why(reasons, pairs)))
    return table


def _why(reasons: dict[tuple[str, str], Counter[str]], pairs: list[tuple[str, str]]) -> list[str]:
    total: Counter[str] = Counter()
    for pair in pairs:
        total += reasons.get(pair, Counter())
    return [f"{count} {reason}" for reason, count in total.most_common()]
