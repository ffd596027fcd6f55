"""IXI as TransMorph's authors publish it, small: pickles of numpy 1 with image and label map."""

import pickle

import numpy as np

SHAPE = (5, 6, 7)
COUNTS = {"Train": 3, "Val": 2, "Test": 2}
VALUES = (
    0, 2, 3, 4, 5, 7, 8, 10, 11, 12, 13, 14, 15, 16, 17, 18, 24, 26, 28, 30, 31, 41, 42, 43, 44,
    46, 47, 49, 50, 51, 52, 53, 54, 58, 60, 62, 63, 72, 77, 80, 85, 251, 252, 253, 254, 255,
)  # fmt: skip


def arrays(seed=0, shape=SHAPE):
    random = np.random.default_rng(seed)
    image = random.random(shape).astype(np.float32)
    labels = random.choice(VALUES, shape).astype(np.int16)
    return image, labels


def dump(path, content):
    """With the name that numpy 1 gave its module; protocol 3 was Python's at that time."""
    path.parent.mkdir(parents=True, exist_ok=True)
    text = pickle.dumps(content, 3)
    path.write_bytes(text.replace(b"numpy._core.multiarray", b"numpy.core.multiarray"))
    return path


def publish(root, counts=COUNTS):
    """Subjects are numbered across the splits."""
    content = {}
    dump(root / "atlas.pkl", arrays(99))
    number = 0
    for part, count in counts.items():
        for _ in range(count):
            content[f"subject_{number}"] = arrays(number)
            dump(root / part / f"subject_{number}.pkl", content[f"subject_{number}"])
            number += 1
    return content
