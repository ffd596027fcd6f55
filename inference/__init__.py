"""Commands that chain the rooms: predict, export, import weights, demo.

Installed as `autoreg.inference`; importing it under another name would make
a second copy of its classes, so that is refused.
"""

if __name__ != "autoreg.inference":
    raise ImportError(
        f"this package is installed as autoreg.inference and was imported as {__name__}: "
        "install the project (pip install -e .) and import autoreg.inference"
    )
