"""Every error this package raises on purpose.

::

    TemploraError
    ├── InputError (ValueError)           the caller gave something unusable; nothing was changed
    │   ├── InvalidId
    │   ├── InvalidText
    │   ├── InvalidSetting
    │   ├── NotAdmitted                   the application refuses this text, or its author
    │   └── PromptTooLong
    ├── UnknownMemory (LookupError)
    ├── UnknownRevision (LookupError)
    ├── UnknownText (LookupError)
    ├── ModelError (RuntimeError)
    │   ├── ModelNotFound                 wrong name, missing or damaged model files
    │   ├── UnsupportedModel              a model without linear layers, with several towers, ...
    │   └── BaseMismatch                  the memory was learned on another base model
    ├── StoreError (RuntimeError)
    │   ├── StoreDamaged                  a file is not what was written
    │   ├── StoreWriteFailed              disk full, no permission, ...
    │   └── Conflict                      another writer was faster; trying again makes sense
    ├── LearningFailed (RuntimeError)     NaN or diverging loss; the old revision stays
    │   └── Unhealthy                     learned, but it would damage other text; not committed
    ├── Cancelled (RuntimeError)          somebody cancelled this job or reply
    └── Closed (RuntimeError)             the service is not open (any more)

A message says what happened, with which value, and what to do next. `retry` tells whether calling
again without a change can succeed. To add an error: a leaf here, a raise site, a test of its text.
"""

from __future__ import annotations

from typing import ClassVar


class TemploraError(Exception):
    """Base of all errors of this package."""

    retry: ClassVar[bool] = False


class InputError(TemploraError, ValueError):
    """The caller gave something unusable; nothing was changed."""


class InvalidId(InputError):
    """A memory id with path parts, control characters or too many letters."""


class InvalidText(InputError):
    """Text that cannot be learned or sent: empty, too large, not text, or without a question."""


class InvalidSetting(InputError):
    """A setting out of its range, or an unknown one."""


class NotAdmitted(InputError):
    """The application's hook, or the limit of what one author may teach, refused the text."""


class PromptTooLong(InputError):
    """System message and newest turn alone do not fit the window."""


class UnknownMemory(TemploraError, LookupError):
    """No memory has this id."""


class UnknownRevision(TemploraError, LookupError):
    """The memory has no such revision (it may have been retired by retention)."""


class UnknownText(TemploraError, LookupError):
    """The memory holds no text of this id (it may have been removed)."""


class ModelError(TemploraError, RuntimeError):
    """Something is wrong with the base model."""


class ModelNotFound(ModelError):
    """No usable model under this name."""


class UnsupportedModel(ModelError):
    """The model loads, but cannot carry a memory."""


class BaseMismatch(ModelError):
    """The memory was learned on another base model; `rebuild` learns it again."""


class StoreError(TemploraError, RuntimeError):
    """Something is wrong with the files."""


class StoreDamaged(StoreError):
    """A file is not what was written."""


class StoreWriteFailed(StoreError):
    """The file system refused a write; what was there before is still there."""


class Conflict(StoreError):
    """Another writer changed the memory in between."""

    retry: ClassVar[bool] = True


class LearningFailed(TemploraError, RuntimeError):
    """Learning produced NaN or diverged; the old revision stays and the text is kept."""


class Unhealthy(LearningFailed):
    """The new revision changes text that has nothing to do with it too much; the old one stays."""


class Cancelled(TemploraError, RuntimeError):
    """The work was cancelled before it was done; the old revision stays."""


class Closed(TemploraError, RuntimeError):
    """The service or backend is not open."""
