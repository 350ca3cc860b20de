"""The functions of `lora` under PEFT's names.

model = get_peft_model(load_model(), LoraConfig(r=8))
model.print_trainable_parameters()
model.save_pretrained("bard")
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path

from minilora.adapters import attach, files, merge
from minilora.adapters.count import report
from minilora.adapters.method import Method
from minilora.lora.adapt import inject
from minilora.nn import Llama


class PeftModel(Llama):
    """A Llama with adapters and the methods of PEFT's PeftModel. Every function that accepts a Llama accepts it.

    A PeftModel shares its state with `model`, so every change to one is also a change to the other.
    """

    def __init__(self, model: Llama) -> None:
        if not isinstance(model, Llama):
            raise TypeError(f"expected a Llama, got {type(model).__name__}; for other modules call lora.inject")
        self.__dict__ = model.__dict__

    @classmethod
    def from_pretrained(  # type: ignore[override]
        cls, model: Llama, folder: str | Path, adapter_name: str = "default", is_trainable: bool = False
    ) -> PeftModel:
        """Attach the adapter in `folder` and make it the active one, frozen unless `is_trainable`."""
        files.load_adapter(model, folder, adapter_name)
        if not is_trainable:
            for host in attach.hosts(model, adapter_name).values():
                host.updates[adapter_name].set_trainable(False)
        return cls(model)

    def save_pretrained(self, folder: str | Path, dtype: str = "float32") -> None:
        """Write the adapter "default" to `folder`, and all others to subfolders named after them, as PEFT does."""
        for name in self.adapters:
            files.save_adapter(self, folder if name == "default" else Path(folder) / name, name, dtype=dtype)

    def get_nb_trainable_parameters(self) -> tuple[int, int]:
        """Return the number of trainable parameters and the number of all parameters."""
        counts = report(self)
        return counts.trainable, counts.total

    def print_trainable_parameters(self) -> None:
        """Print the number of trainable parameters and the number of all parameters."""
        trainable, total = self.get_nb_trainable_parameters()
        print(f"trainable params: {trainable:,} || all params: {total:,} || trainable%: {100 * trainable / total:.4f}")

    def load_adapter(self, folder: str | Path, adapter_name: str) -> None:
        """Attach the adapter in `folder`; the active adapters stay the same. Call `set_adapter` to use the new one."""
        active = self.active_adapters
        files.load_adapter(self, folder, adapter_name)
        attach.set_active(self, active)

    def set_adapter(self, adapter_name: str) -> None:
        """Make one adapter the active one."""
        attach.set_active(self, adapter_name)

    def disable_adapter(self) -> AbstractContextManager[None]:
        """Context manager that turns all adapters off."""
        return attach.disabled(self)

    def delete_adapter(self, adapter_name: str) -> None:
        """Remove an adapter."""
        attach.delete_adapter(self, adapter_name)

    def merge_adapter(self) -> None:
        """Merge the active adapters into the weights; `unmerge_adapter` restores the weights."""
        merge.merge(self)

    def unmerge_adapter(self) -> None:
        """Restore the weights from before `merge_adapter`."""
        merge.unmerge(self)

    def merge_and_unload(self) -> Llama:
        """Merge the active adapters permanently, and return the model without adapters."""
        merge.merge_and_unload(self)
        return self._base()

    def unload(self) -> Llama:
        """Remove all adapters, and return the model without them."""
        attach.unload(self)
        return self._base()

    def _base(self) -> Llama:
        base = Llama.__new__(Llama)
        base.__dict__ = self.__dict__
        return base


def get_peft_model(model: Llama, peft_config: Method, adapter_name: str = "default") -> PeftModel:
    """Attach a new adapter, and return the model with PEFT's methods. The adapter's seed is 0, as in `inject`."""
    peft_model = PeftModel(model)
    inject(model, peft_config, adapter_name)
    return peft_model
