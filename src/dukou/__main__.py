"""`python -m dukou` and the console command: decides what to import, which is most of what a start takes."""

import signal
import sys


def main() -> None:
    """Run the command line, or a process that dukou started for itself; exits with its code."""
    argv = sys.argv[1:]
    if argv[:1] == ["_worker"]:
        from dukou.app.worker import worker

        sys.exit(worker(argv[1:]))
    if argv[:1] == ["_model"]:
        from dukou.app.model_process import model_process

        sys.exit(model_process(argv[1:]))
    if argv[:1] == ["_pack"]:
        from dukou.app.passing import pack_file

        sys.exit(pack_file(argv[1:]))
    interruptible = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if interruptible:  # Ctrl-C while importing ends the process without a traceback
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from dukou.cli.main import run

    if interruptible:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.exit(run(argv))


if __name__ == "__main__":
    main()
