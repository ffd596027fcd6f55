"""Standard error is silent within a library's call, and only there."""

import os
import threading

from autoreg.io.quiet import quiet_libraries


def say(text):
    os.write(2, text.encode())  # past Python, as libraries do


def test_what_a_library_prints_is_discarded_and_what_follows_is_not(capfd):
    say("before ")
    with quiet_libraries():
        say("within ")
    say("after")
    assert capfd.readouterr().err == "before after"


def test_threads_that_overlap_leave_standard_error_open(capfd):
    entered, leave = threading.Event(), threading.Event()

    def first():
        with quiet_libraries():
            entered.set()
            leave.wait(10)

    thread = threading.Thread(target=first)
    thread.start()
    assert entered.wait(10)
    with quiet_libraries():
        leave.set()
        thread.join()
        say("within ")
    say("after")
    assert capfd.readouterr().err == "after"
