"""Build metadata of autoreg.

The two rooms at the top level, `inference` and `dataset_conversion`, are installed as
`autoreg.inference` and `autoreg.dataset_conversion`: both names belong to other projects
in site-packages, so they must never be importable on their own.
"""

import re
from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).parent
VERSION_LINE = re.search(
    r'^__version__ = "([^"]+)"', (ROOT / "autoreg" / "__init__.py").read_text("utf-8"), re.M
)
if VERSION_LINE is None:
    raise RuntimeError('autoreg/__init__.py: no line __version__ = "..."')

COMMANDS = {
    "autoreg_convert_dataset": "autoreg.dataset_conversion.cli:main",
    "autoreg_fingerprint": "autoreg.planning.cli:main_fingerprint",
    "autoreg_plan": "autoreg.planning.cli:main_plan",
    "autoreg_preprocess": "autoreg.planning.cli:main_preprocess",
    "autoreg_plan_and_preprocess": "autoreg.planning.cli:main_plan_and_preprocess",
    "autoreg_train": "autoreg.training.cli:main",
    "autoreg_predict": "autoreg.inference.cli:main_predict",
    "autoreg_import_weights": "autoreg.inference.cli:main_import_weights",
    "autoreg_export_model": "autoreg.inference.cli_model_archive:main_export",
    "autoreg_install_model": "autoreg.inference.cli_model_archive:main_install",
    "autoreg_demo": "autoreg.inference.cli:main_demo",
    "autoreg_register": "autoreg.inference.cli_register:main",
    "autoreg_apply_transform": "autoreg.inference.cli_transforms:main_apply",
    "autoreg_convert_transform": "autoreg.inference.cli_transforms:main_convert",
    "autoreg_evaluate": "autoreg.evaluation.cli:main",
    "autoreg_compare_io": "autoreg.inference.cli_compare_io:main",
    "autoreg_find_best_configuration": "autoreg.inference.cli_find_best:main",
    "autoreg_export_submission": "autoreg.inference.cli_submission:main",
}

setup(
    name="autoreg",
    version=VERSION_LINE.group(1),
    description="Deformable medical image registration that configures itself",
    long_description=(ROOT / "README.md").read_text("utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.11",
    packages=[
        *find_packages(include=["autoreg", "autoreg.*"]),
        "autoreg.dataset_conversion",
        "autoreg.inference",
    ],
    package_dir={
        "autoreg": "autoreg",
        "autoreg.dataset_conversion": "dataset_conversion",
        "autoreg.inference": "inference",
    },
    package_data={"autoreg": ["py.typed"]},
    install_requires=[
        "torch>=2.6",
        "SimpleITK>=2.3",
        "nibabel>=5.2",
        "numpy>=1.26",
        "scipy>=1.11",
        "batchgenerators>=0.25.5",
        "tqdm>=4.66",
        "matplotlib>=3.8",
    ],
    extras_require={
        "demo": ["nilearn>=0.10"],
        "tensorboard": ["tensorboard>=2.14"],
        "dev": [
            "pytest>=8",
            "pytest-xdist>=3",
            "ruff==0.17.*",
            "mypy>=2,<3",
            "build>=1.2",
            "tensorboard>=2.14",
        ],
    },
    entry_points={
        "console_scripts": [f"{command} = {target}" for command, target in COMMANDS.items()]
    },
)
