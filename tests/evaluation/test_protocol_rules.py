"""The rules of the protocols: which metrics count, and which labels."""

import pytest

from autoreg.dataset_conversion.lumir import LABEL_VALUES
from autoreg.errors import UsageError
from autoreg.evaluation.protocols import PROTOCOLS, parse_labels


def test_quantiles_and_official_metrics_of_the_protocols():
    official = {
        name: {k: m.quantile for k, m in p.metrics.items() if m.official}
        for name, p in PROTOCOLS.items()
    }
    assert official == {
        "lumir": {"dice": 0.3, "hd95_vox": 0.3, "tre_vox": 0.3, "ndv_moving_fraction": 0.3},
        "learn2reg": {
            "dice": 0.3,
            "hd95_vox": 0.3,
            "tre_lm_mm": 0.7,
            "tre_kp_mm": 0.7,
            "sdlogj_plus3": 0.7,
        },
    }


def test_lumirs_labels_are_those_of_its_evaluator():
    listed = """
        0 4 11 23 30 31 32 35 36 37 38 39 40 41 44 45 47 48 49 50 51 52 55 56 57 58 59 60 61 62 71
        72 73 75 76 100 101 102 103 104 105 106 107 108 109 112 113 114 115 116 117 118 119 120 121
        122 123 124 125 128 129 132 133 134 135 136 137 138 139 140 141 142 143 144 145 146 147 148
        149 150 151 152 153 154 155 156 157 160 161 162 163 164 165 166 167 168 169 170 171 172 173
        174 175 176 177 178 179 180 181 182 183 184 185 186 187 190 191 192 193 194 195 196 197 198
        199 200 201 202 203 204 205 206 207
    """
    labels = tuple(int(label) for label in listed.split())
    assert len(labels) == 133
    assert PROTOCOLS["lumir"].labels == labels
    assert LABEL_VALUES == labels[1:]  # what the conversion calls structures


@pytest.mark.parametrize(
    ("text", "labels"), [("1-3", (1, 2, 3)), ("7, 0,2 - 3,2", (0, 2, 3, 7)), ("5", (5,))]
)
def test_lists_of_labels(text, labels):
    assert parse_labels(text) == labels


@pytest.mark.parametrize("text", ["", "1,", "3-1", "-1", "a", "1-", "1.5"])
def test_other_lists_are_refused(text):
    with pytest.raises(UsageError, match=r"values and ranges such as 0,4,30-32"):
        parse_labels(text)
