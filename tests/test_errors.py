"""Which errors no handler may catch: memory that ran out, and interrupts, however they are dressed."""

from __future__ import annotations

import errno

import pytest
import torch

from pidiff_core.errors import PIDiffError, check_interrupted, explained, passes_through, register_host


class Cancelled(Exception):
    """What a host raises."""


@pytest.fixture
def host():
    """A host that has been cancelled."""

    def check():
        raise Cancelled

    register_host(check, Cancelled)
    yield
    register_host(lambda: None)


def wrapped(inner: BaseException, *, explicit: bool) -> BaseException:
    """An error of another library whose cause is `inner`."""
    try:
        try:
            raise inner
        except BaseException as error:
            if explicit:
                raise ValueError("cannot read") from error
            raise ValueError("cannot read")  # noqa: B904 (that is the case)
    except ValueError as outer:
        return outer


THEIRS = [
    MemoryError(),
    KeyboardInterrupt(),
    SystemExit(),
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"),
    RuntimeError("[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate memory: you tried ..."),
    RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 8589934592 bytes."),
    RuntimeError("[ONNXRuntimeError] : 6 : RUNTIME_EXCEPTION : std::bad_alloc"),
    OSError(errno.ENOMEM, "Cannot allocate memory"),
]


@pytest.mark.parametrize("error", THEIRS, ids=lambda error: f"{type(error).__name__}-{str(error)[:24]}")
def test_memory_and_interrupts_pass_through(error):
    assert passes_through(error)
    with pytest.raises(type(error)), explained(lambda _: "broken"):
        raise error


@pytest.mark.parametrize("explicit", [True, False])
def test_so_do_errors_that_they_caused(explicit):
    assert passes_through(wrapped(MemoryError(), explicit=explicit))
    assert not passes_through(wrapped(KeyError("a"), explicit=explicit))


def test_memory_is_really_asked_for():
    with pytest.raises(RuntimeError, match="memory") as caught, explained(lambda _: "broken"):
        torch.empty(1 << 60, dtype=torch.uint8)
    assert passes_through(caught.value)


@pytest.mark.parametrize("error", [ValueError("x"), OSError(errno.ENOSPC, "No space left"), RuntimeError("bad shape")])
def test_everything_else_is_explained(error):
    with pytest.raises(PIDiffError, match="is broken: ") as caught, explained(lambda e: f"It is broken: {e}"):
        raise error
    assert caught.value.__cause__ is error


def test_our_own_sentences_stay():
    with pytest.raises(PIDiffError, match=r"^first$"), explained(lambda _: "second"):
        raise PIDiffError("first")


def test_the_host_s_interrupt_passes_through_once_it_is_registered(host):
    assert passes_through(Cancelled())
    with pytest.raises(Cancelled), explained(lambda _: "broken"):
        check_interrupted()


def test_without_a_host_nothing_interrupts():
    assert check_interrupted() is None
    assert not passes_through(Cancelled())
