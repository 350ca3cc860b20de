"""`kill -9` at any moment while a checkpoint is written leaves a complete one, either the old or the new."""

import os
import subprocess
import sys
import textwrap

import pytest

SCRIPT = textwrap.dedent(
    """
    import os, signal, sys
    from pathlib import Path

    import numpy as np

    from minilora.autograd import Tensor
    from minilora.training import AdamW, CheckpointError, History, checkpoint

    path, rng = Path(sys.argv[1]), np.random.default_rng(0)
    os.fsync = lambda handle: None  # only processes are killed, not the machine, and fsync is slow

    def state(value):
        optimizer = AdamW([("p", Tensor(np.full(5_000, value), True))])
        optimizer.steps = int(value)
        return optimizer

    def save(value, moment=None):
        '''Save a state. With `moment`, kill the process at that call or return in minilora or a file function.'''
        seen = 0

        def watch(frame, event, argument):
            nonlocal seen
            code = frame.f_code
            seen += "minilora" in code.co_filename or code.co_name in ("open", "write_bytes", "write_text")
            if seen == moment:
                os.kill(os.getpid(), signal.SIGKILL)

        if moment:
            sys.setprofile(watch)
        checkpoint.save(path, state(value), rng, History([value], []), {})
        sys.setprofile(None)

    checkpoint.save(path, state(1.0), rng, History([1.0], []), {})  # so that all modules are imported
    found, moment = [], 0
    while True:
        moment += 1
        child = os.fork()
        if not child:
            save(2.0, moment)
            os._exit(0)
        killed = os.waitpid(child, 0)[1] == signal.SIGKILL
        optimizer, history = state(0.0), History()
        checkpoint.load(path, optimizer, rng, history, {})
        assert history.losses == [float(optimizer.steps)] == [optimizer.data[0]], (moment, history)
        found.append(optimizer.steps)
        if not killed:
            break
        if optimizer.steps == 2:
            save(1.0)
    print(*found)
    """
)


@pytest.mark.skipif(os.name != "posix", reason="requires POSIX fork and SIGKILL")
def test_there_is_a_whole_checkpoint_at_every_moment(tmp_path):
    path = tmp_path / "checkpoint.safetensors"
    run = subprocess.run([sys.executable, "-c", SCRIPT, path], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    found = [int(word) for word in run.stdout.split()]
    assert len(found) > 40
    assert found == sorted(found)  # the old one before the rename, the new one after it
    assert set(found) == {1, 2}
