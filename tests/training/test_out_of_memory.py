"""Memory that does not suffice is recognised and answered."""

import dataclasses

import pytest
import torch

from autoreg.errors import AutoregError
from autoreg.network_plan import TransMorphPlan
from autoreg.training.out_of_memory import is_out_of_memory, memory_advice

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB"),
        RuntimeError("CUDA error: out of memory"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
        RuntimeError(
            "[enforce fail at alloc_cpu.cpp:121] err == 0. DefaultCPUAllocator: can't allocate "
            "memory: you tried to allocate 4000000000000 bytes. Error code 12"
        ),
    ],
)
def test_exhausted_memory_is_recognised(error):
    assert is_out_of_memory(error)
    outer = AutoregError("training failed")
    outer.__cause__ = error
    assert is_out_of_memory(outer)


def test_the_cpus_own_error_is_recognised():
    with pytest.raises((RuntimeError, MemoryError)) as caught:
        torch.empty(2**55)
    assert is_out_of_memory(caught.value)


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("The size of tensor a (4) must match the size of tensor b (2)"),
        ValueError("out of memory lane"),
        AutoregError("the loss is nan"),
    ],
)
def test_other_errors_are_not(error):
    assert not is_out_of_memory(error)


def changed(plan, network=None, **training):
    network = dataclasses.replace(plan.network, **(network or {}))
    return dataclasses.replace(
        plan, network=network, training=dataclasses.replace(plan.training, **training)
    )


def test_all_that_is_not_used_is_listed_the_least_harmful_first(make_plan):
    text = memory_advice(changed(make_plan(), batch_size=4), CUDA)
    places = [
        text.index(way)
        for way in ("--accumulation-steps 4", '"checkpointing": true', "bfloat16", "--budget")
    ]
    assert places == sorted(places)


def test_what_is_used_already_is_not_advised(make_plan):
    saving = changed(
        make_plan(), {"checkpointing": True}, batch_size=4, accumulation_steps=4,
        precision="bfloat16",
    )  # fmt: skip
    text = memory_advice(saving, CUDA)
    assert "--budget" in text
    assert not any(way in text for way in ("--accumulation", "checkpointing", "bfloat16"))


def test_bfloat16_is_not_advised_on_the_cpu(make_plan):
    assert "bfloat16" not in memory_advice(make_plan(), CPU)


def test_a_network_without_batch_normalisation_loses_nothing_by_parts(make_plan):
    plan = changed(make_plan(), batch_size=2)
    assert "one part at a time" in memory_advice(plan, CPU)
    assert "one part at a time" not in memory_advice(changed(plan, batch_norm="frozen"), CPU)
    network = TransMorphPlan(
        variant="half", embedding=8, depths=(1,) * 4, heads=(1,) * 4, window=(2,) * 3,
        drop_path=0.0,
    )  # fmt: skip
    assert "same gradients" in memory_advice(dataclasses.replace(plan, network=network), CPU)
