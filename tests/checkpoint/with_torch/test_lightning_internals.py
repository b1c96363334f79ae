"""Which Lightning has lost or changed a private name that exact resuming reads. Run with the oldest and the newest."""

from __future__ import annotations

import inspect
import re
from functools import reduce
from pathlib import Path

import lightning as L
import pytest
import torch
from lightning.pytorch.loops import fetchers
from lightning.pytorch.loops.loop import _Loop
from lightning.pytorch.trainer import call
from lightning.pytorch.utilities import CombinedLoader

from mvae.checkpoint.with_torch import lightning_internals

NAMES = {
    "_logger_connector": ["_first_loop_iter", "on_batch_end", "on_epoch_end", "epoch_end_reached",
                          "update_train_step_metrics", "update_train_epoch_metrics"],
    "fit_loop": ["_combined_loader", "_data_fetcher", "_last_train_dl_reload_epoch", "_restart_stage", "_restarting",
                 "_resuming_from_checkpoint", "_loaded_from_state_dict", "_can_stop_early",
                 "epoch_progress.current.ready"],
    "fit_loop.epoch_loop": ["_should_accumulate", "_num_ready_batches_reached", "_should_check_val_fx",
                            "_batches_that_stepped", "_restart_stage", "_restarting", "_skip_next_val", "_results",
                            "batch_progress.current.processed", "update_lr_schedulers", "on_advance_end"],
    "fit_loop.epoch_loop.val_loop": ["_combined_loader", "_last_val_dl_reload_epoch", "_module_mode.mode",
                                     "_restart_stage", "_restarting", "batch_progress"],
}  # fmt: skip


@pytest.mark.parametrize("owner", NAMES)
def test_the_names_are_there(owner: str) -> None:
    trainer = L.Trainer(logger=False, enable_checkpointing=False, accelerator="cpu", enable_progress_bar=False)
    start = reduce(getattr, owner.split("."), trainer)
    for name in NAMES[owner]:
        if name != "_module_mode.mode" or hasattr(start._module_mode, "mode"):
            reduce(getattr, name.split("."), start)


def test_the_first_pass_begins_after_the_loaders_states_are_given_back() -> None:
    source = inspect.getsource(L.Trainer().fit_loop.setup_data)
    assert 0 < source.index("self._load_combined_loader_states()") < source.index("iter(self._data_fetcher)")


def test_what_is_read_of_a_combined_loader_and_of_torchs_iterator_is_there() -> None:
    combined = CombinedLoader(torch.utils.data.DataLoader(range(4)), "max_size_cycle")
    lightning_internals.without_iterating(combined)
    assert len(combined) == 4
    iter(combined)
    assert lightning_internals.cycles(combined) == [False]
    (iterator,) = lightning_internals.iterators(combined)
    assert next(iterator._sampler_iter) == [0]
    assert {"fetched", "done", "iterator"} <= vars(fetchers._PrefetchDataFetcher()).keys()
    assert hasattr(_Loop, "restarting")


def test_a_hook_is_known_by_the_frames_it_is_called_from() -> None:
    for function, owner in ((call._call_callback_hooks, "callback"), (call._call_lightning_module_hook, "pl_module")):
        assert {"hook_name", owner} <= set(function.__code__.co_varnames)


def test_no_other_module_reads_lightnings_private_names() -> None:
    folder = Path(lightning_internals.__file__).parent
    torchs_own = {"_iterator", "_sampler_iter"}
    for module in folder.glob("*.py"):
        if module.name != "lightning_internals.py":
            found = set(re.findall(r"(?<!self)\.(_[a-z]\w*)", module.read_text())) - torchs_own
            assert found == set(), module.name
