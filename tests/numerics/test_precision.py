"""float32 without TF32, and everything as before afterwards."""

import pytest
import torch

from autoreg.numerics.precision import float32_exactly


def switches():
    return torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32


def switch(values):
    torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = values


@pytest.fixture(params=[(True, True), (False, True), (True, False)])
def before(request):
    at_first = switches()
    switch(request.param)
    yield request.param
    switch(at_first)


def test_tf32_is_off_inside_and_as_before_afterwards(before):
    with float32_exactly():
        assert switches() == (False, False)
        with float32_exactly():
            pass
        assert switches() == (False, False)
    assert switches() == before


def test_an_error_inside_leaves_the_switches_as_before(before):
    with pytest.raises(KeyError), float32_exactly():
        raise KeyError
    assert switches() == before
