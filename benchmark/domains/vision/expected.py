"""A local copy's class names and number of images against what the manifest of its data set says."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from benchmark.domains.vision.public import SetInfo


def compare_count(about: SetInfo, count: int) -> tuple[str, str]:
    """``("ok" | "warning" | "error", message)`` for a test split of ``count`` images."""
    expected = about.test
    if count == expected.n:
        return "ok", f"{count:,} test images"
    message = f"{count:,} test images, expected {expected.n:,} ({expected.source})"
    if count in about.wrong_sizes:
        return "error", f"{message}; {count:,} is {about.wrong_sizes[count]}"
    return ("error", message) if expected.verified else ("warning", f"{message}; not verified, so not refused")


def compare_classes(about: SetInfo, classes: list[str] | None) -> tuple[str, str]:
    """``("ok" | "warning" | "error", message)`` for the class names in a data set's own features, in label order.

    A head knows classes by their index only, so a data set with the same classes in another order gives wrong scores
    and no error of its own. Where the names are other words altogether only their number can be compared.
    """
    wanted = about.classes
    if classes is None:
        return "ok", f"{len(wanted)} classes, unnamed in the data"
    if len(classes) != len(wanted):
        return "error", f"{len(classes)} classes, the head has {len(wanted)}"
    lists = [[plain(word) for word in words] for words in (wanted, *about.also)]
    own = [plain(word) for word in classes]
    if own in lists:
        return "ok", f"{len(wanted)} classes in the head's order"
    if all(name.isdecimal() for name in own) and not any(word.isdecimal() for words in lists for word in words):
        wrong = [name for index, name in enumerate(classes) if int(name) != index]
        if wrong:
            return "error", f"label {classes.index(wrong[0])} is named {wrong[0]!r}: names were sorted as text"
        return "ok", f"{len(wanted)} classes, numbered in the data"
    alike = [words for words in lists if len(words) == len(wanted)]
    if all(any(words[i] == name for words in alike) for i, name in enumerate(own)):
        return "ok", f"{len(wanted)} classes in the head's order, in spellings of several copies"
    for words in lists:
        moved = [i for i, name in enumerate(own) if name in words and words.index(name) != i]
        if moved:
            return "error", (
                f"label {moved[0]} is {classes[moved[0]]!r}, the head has {wanted[moved[0]]!r} there "
                f"and {classes[moved[0]]!r} at {words.index(own[moved[0]])}: another class order"
            )
    at = next(i for i, name in enumerate(own) if all(words[i] != name for words in lists))
    return "warning", (
        f"the data call class {at} {classes[at]!r}, the manifest {wanted[at]!r}; "
        "the order could not be compared in full"
    )


def plain(word: str) -> str:
    """A class's name in lower case, of letters and digits alone."""
    return "".join(char for char in word.lower() if char.isalnum())
