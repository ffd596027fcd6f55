"""Pairs of a raw data set: checked, or made up by rule where none are listed."""

from collections import Counter
from collections.abc import Collection, Sequence
from itertools import pairwise

from autoreg.errors import did_you_mean
from autoreg.io.cases import PAIRINGS, Case, Pair, Pairing, nearest_case
from autoreg.io.dataset_files import case_name
from autoreg.io.dataset_json import Description
from autoreg.io.problems import Problem


class NativePairs:
    """The pairs of a native data set: those that dataset.json lists, else those of the rules.

    Without `training_pairs`, "inter_subject" may draw any pair of training cases (None here),
    "intra_subject" takes all pairs within a subject and "atlas" every case with the atlas, in both
    orders. Without `test_pairs`, "inter_subject" pairs each test case with the next one as moving
    image, "intra_subject" as in training, "atlas" each test case with the atlas as moving image.

    Attributes:
        pairing: How pairs arise.
        training_pairs: See `RawDataset`; likewise the others.
    """

    def __init__(
        self, training: Sequence[Case], test: Sequence[Case], description: Description
    ) -> None:
        self._description = description
        trainable = [case.name for case in training]
        testable = [*trainable, *(case.name for case in test)]
        self.pairing = _pairing(description)
        atlas = _atlas(description, self.pairing, trainable)
        self.training_pairs = self._listed("training_pairs", trainable, "imagesTr")
        self.validation_pairs = self._listed("validation_pairs", trainable, "imagesTr")
        test_pairs = self._listed("test_pairs", testable, "imagesTr or imagesTs")
        if self.training_pairs is None:
            self.training_pairs = _default_training_pairs(training, self.pairing, atlas)
        if test_pairs is None:
            test_pairs = _default_test_pairs(test, self.pairing, atlas)
        self.test_pairs = test_pairs

    def typical(self) -> tuple[Pair, ...]:
        """The pairs that tell which modality is fixed and which moving."""
        return (*(self.training_pairs or ()), *(self.validation_pairs or ())) or self.test_pairs

    def _listed(self, key: str, allowed: Sequence[str], folders: str) -> tuple[Pair, ...] | None:
        entries = self._description.pairs(key)
        if entries is None:
            return None
        names = set(allowed)
        pairs = [
            Pair(case_name(fixed, names), case_name(moving, names)) for fixed, moving in entries
        ]
        remedy = f"correct the name, or add the image to {folders}"
        place = self._description.place(key)
        return check_pairs(pairs, names, place, remedy, self._description.problems)


def check_pairs(
    pairs: Sequence[Pair], cases: Collection[str], where: str, remedy: str, problems: list[Problem]
) -> tuple[Pair, ...]:
    """Keep the pairs that can be used and report the others.

    Args:
        pairs: As listed.
        cases: Names that may be used.
        where: File and key, for messages.
        remedy: What to do about a name that is not in `cases`.
        problems: Is added to.

    Returns:
        The pairs of two different, existing cases; each once.
    """
    good: dict[Pair, None] = {}
    for index, pair in enumerate(pairs):
        place = f"{where}[{index}]"
        absent = [name for name in dict.fromkeys((pair.fixed, pair.moving)) if name not in cases]
        for name in absent:
            expected = f"a case of this data set; {nearest_case(name, cases)}"
            problems.append(Problem(place, f'the case "{name}"', expected, remedy))
        if pair.fixed == pair.moving:
            found = f'"{pair.fixed}" paired with itself'
            problems.append(Problem(place, found, "two different cases", "correct or remove it"))
        elif not absent:
            good[pair] = None
    return tuple(good)


def pair_modalities(
    cases: Sequence[Case], pairs: Sequence[Pair]
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The modalities of fixed and of moving images.

    Those of most pairs; without pairs the most frequent modalities of the cases, and where the
    cases have several, the second most frequent for the moving images. Ties go to the first.

    Args:
        cases: All cases.
        pairs: Listed pairs of existing cases; may be empty.
    """
    of_case = {case.name: case.modalities for case in cases}
    if pairs:
        combinations = Counter((of_case[pair.fixed], of_case[pair.moving]) for pair in pairs)
        return combinations.most_common(1)[0][0]
    common = [modalities for modalities, _ in Counter(of_case.values()).most_common(2)]
    if not common:
        return ("image",), ("image",)
    return common[0], common[-1]


def subject_of(case: str) -> str:
    """The subject of a case named `<subject>_<visit>`: all before the last underscore."""
    return case.rpartition("_")[0] or case


def pairs_within_subjects(cases: Sequence[Case]) -> tuple[Pair, ...]:
    """All ordered pairs of cases of one subject (see `subject_of`)."""
    groups: dict[str, list[str]] = {}
    for case in cases:
        groups.setdefault(subject_of(case.name), []).append(case.name)
    return tuple(
        Pair(fixed, moving)
        for group in groups.values()
        for fixed in group
        for moving in group
        if fixed != moving
    )


def _pairing(description: Description) -> Pairing:
    value = description.text("pairing", "inter_subject")
    for pairing in PAIRINGS:
        if value == pairing:
            return pairing
    expected = "one of " + ", ".join(PAIRINGS)
    description.complain("pairing", value, expected, did_you_mean(value, PAIRINGS))
    return "inter_subject"


def _atlas(description: Description, pairing: Pairing, cases: Collection[str]) -> str | None:
    """The atlas case where pairing is "atlas"."""
    name = description.text("atlas", "")
    if pairing != "atlas":
        if name:
            remedy = 'set "pairing": "atlas" or remove the key'
            description.complain("atlas", name, f'no atlas, since pairing is "{pairing}"', remedy)
        return None
    if name in cases:
        return name
    remedy = nearest_case(name, cases) if name else 'add "atlas": "<case>"'
    found = f'the case "{name}"' if name else "nothing"
    description.complain("atlas", found, "the training case that is the atlas", remedy)
    return None


def _default_training_pairs(
    training: Sequence[Case], pairing: Pairing, atlas: str | None
) -> tuple[Pair, ...] | None:
    if pairing == "intra_subject":
        return pairs_within_subjects(training)
    if atlas is None:
        return None
    others = [case.name for case in training if case.name != atlas]
    return tuple(pair for name in others for pair in (Pair(atlas, name), Pair(name, atlas)))


def _default_test_pairs(
    test: Sequence[Case], pairing: Pairing, atlas: str | None
) -> tuple[Pair, ...]:
    names = [case.name for case in test]
    if pairing == "intra_subject":
        return pairs_within_subjects(test)
    if atlas is not None:
        return tuple(Pair(name, atlas) for name in names)
    return tuple(Pair(fixed, moving) for fixed, moving in pairwise(names))
