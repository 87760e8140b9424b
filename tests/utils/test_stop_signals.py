"""Signals that ask for an end: noted, raised when it suits, raised at once the second time."""

import os
import signal
import threading

import pytest

from utils.errors import Interruption
from utils.stop_signals import ENDING_SIGNALS, StopRequest, interrupting

CODES = {"SIGINT": 130, "SIGTERM": 143, "SIGHUP": 129, "SIGUSR1": 138, "SIGUSR2": 140}


def send(name):
    os.kill(os.getpid(), getattr(signal, name))  # Python's handler runs before the next line


@pytest.mark.parametrize("name, code", CODES.items())
def test_the_first_signal_is_noted_and_raised_when_asked_for(name, code, capfd):
    stop = StopRequest()
    before = signal.getsignal(getattr(signal, name))
    with stop.deferred():
        send(name)
        assert stop.number == getattr(signal, name)
        with pytest.raises(Interruption) as caught:
            stop.check()
    assert caught.value.exit_code == code
    assert signal.getsignal(getattr(signal, name)) is before
    assert "a second signal ends at once" in capfd.readouterr().err


def test_without_a_signal_nothing_is_raised():
    stop = StopRequest()
    with stop.deferred():
        stop.check()
        with stop.at_once():
            pass


def test_the_second_signal_is_raised_at_once_and_later_ones_change_nothing():
    stop = StopRequest()
    with pytest.raises(Interruption, match="ended by SIGHUP") as caught, stop.deferred():
        send("SIGTERM")
        try:
            send("SIGHUP")
        finally:
            send("SIGTERM")  # while files are closed
    assert caught.value.exit_code == 129


def test_at_once_raises_the_first_signal_and_lets_what_follows_be_written():
    stop, written = StopRequest(), []
    with pytest.raises(Interruption, match="interrupted"), stop.deferred():
        try:
            with stop.at_once():
                send("SIGINT")
        finally:
            written.append("state")
    assert written == ["state"]


def test_signals_that_a_parent_passes_on_are_one_request(monkeypatch):
    monkeypatch.setattr(StopRequest, "repeats_end", False)
    stop, written = StopRequest(), []
    with stop.deferred():
        send("SIGTERM")
        send("SIGTERM")
        send("SIGHUP")
        written.append("the step")
    assert stop.number == signal.SIGTERM and written == ["the step"]
    with pytest.raises(Interruption, match="ended by SIGUSR2"), interrupting():
        try:
            send("SIGUSR2")
        finally:
            send("SIGTERM")
            written.append("the state")
    assert written == ["the step", "the state"]


def test_at_once_does_not_begin_after_a_signal():
    stop = StopRequest()
    with pytest.raises(Interruption), stop.deferred():
        send("SIGTERM")
        with stop.at_once():
            raise AssertionError("must not be reached")


def test_a_signal_that_is_ignored_stays_ignored():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        stop = StopRequest()
        with stop.deferred():
            send("SIGHUP")
            stop.check()
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_nested_and_in_another_thread_it_leaves_the_handlers_alone():
    stop = StopRequest()
    with stop.deferred():
        with stop.deferred():
            pass
        send("SIGTERM")
        assert stop.number == signal.SIGTERM
    seen = []

    def use():
        with StopRequest().deferred():
            seen.append([signal.getsignal(number) for number in ENDING_SIGNALS])

    expected = [signal.getsignal(number) for number in ENDING_SIGNALS]
    thread = threading.Thread(target=use)
    thread.start()
    thread.join()
    assert seen == [expected]
