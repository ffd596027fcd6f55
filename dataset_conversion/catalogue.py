"""The data sets that can be converted, for help and messages: names, variants, where to get them.

Nothing heavy is imported here, so that `--help` answers at once; `registry` has the converters.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Entry:
    """One data set.

    Attributes:
        title: One line for help.
        origin: Where it is published.
        variants: Name to explanation; the first is the default.
    """

    title: str
    origin: str
    variants: Mapping[str, str] = field(default_factory=dict)


CATALOGUE: dict[str, Entry] = {
    "lumir": Entry(
        title="LUMIR (Learn2Reg 2024): brain MRI, 3384 training and 40 validation images",
        origin="github.com/JHU-MedImage-Reg/LUMIR_L2R",
    ),
    "oasis": Entry(
        title="OASIS: brain MRI of 414 subjects, neurite's release or Learn2Reg's",
        origin="github.com/adalca/medical-datasets (neurite-oasis.v1.0.tar)",
        variants={
            "aligned": "affinely aligned images as published, 160x192x224, SITReg's split",
            "cropped": "the same cropped to 160x144x192, as in SITReg's affine experiments",
            "scanner": "256x256x256 in scanner space, SITReg's split",
            "learn2reg": "aligned images, training and validation as in Learn2Reg 2021",
        },
    ),
    "nlst": Entry(
        title="NLST (Learn2Reg 2022 and 2023): lung CT pairs with masks and key points",
        origin="learn2reg.grand-challenge.org (NLST2023.zip)",
    ),
    "lpba40": Entry(
        title="LPBA40: brain MRI of 40 subjects with 56 structures, Analyze images of LONI",
        origin="loni.usc.edu (Resources, Atlases, LPBA40 Subjects)",
        variants={
            "cropped": "delineation space cropped to 160x192x160, as in SITReg's experiments",
            "whole": "delineation space as it is, 181x217x181",
        },
    ),
    "lung250m_4b": Entry(
        title="Lung250M-4B: inhale and exhale lung CT with masks, landmarks of 27 pairs",
        origin="github.com/multimodallearning/Lung250M-4B",
    ),
    "ixi": Entry(
        title="IXI as TransMorph's authors publish it: atlas and 576 brain MRI as pickles",
        origin="github.com/junyuchen245/Preprocessed_IXI_Dataset",
        variants={
            "all": "45 structures, numbered from 1 as in TransMorph's programs",
            "paper": "the 30 structures of TransMorph's tables, with the same numbers",
        },
    ),
    "folder": Entry(
        title="any heap of images, with label maps, masks and landmarks by name",
        origin="your own images",
    ),
}
