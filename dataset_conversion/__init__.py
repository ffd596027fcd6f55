"""The room for one small module for each public data set that needs converting; none yet.

Installed as `autoreg.dataset_conversion`; importing it under another name would make
a second copy of its classes, so that is refused.
"""

if __name__ != "autoreg.dataset_conversion":
    raise ImportError(
        f"this package is installed as autoreg.dataset_conversion and was imported as {__name__}: "
        "install the project (pip install -e .) and import autoreg.dataset_conversion"
    )
