"""Public data sets, and any heap of images, to raw data sets: one small module for each.

Installed as `autoreg.dataset_conversion`; importing it under another name would make
a second copy of its classes, so that is refused.
"""

if __name__ != "autoreg.dataset_conversion":
    raise ImportError(
        f"this package is installed as autoreg.dataset_conversion and was imported as {__name__}: "
        "install the project (pip install -e .) and import autoreg.dataset_conversion"
    )
