"""Where a study lies: Optuna's journal file in the workdir, or a database. Reports its errors in one line."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote, quote_plus

import optuna
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock

from cifar_flax.errors import BadInput, Unwritable, in_one_line

JOURNAL = "journal.log"


class Journal(JournalFileBackend):
    """Optuna's journal, which can be written to again after a full disk has cut off its last line."""

    def __init__(self, path: Path):
        # Optuna's default lock waits forever for a dead process if the folder was renamed since
        self._path, self._mutex = path, JournalFileOpenLock(str(path))
        super().__init__(str(path), self._mutex)

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        self._mutex.acquire()
        try:
            self._remove_unfinished_line()
        finally:
            self._mutex.release()
        super().append_logs(logs)

    def _remove_unfinished_line(self) -> None:
        """The next line would be appended to it, and neither could be read."""
        with self._path.open("r+b") as file:
            content = file.read()
            if content and not content.endswith(b"\n"):
                file.truncate(content.rfind(b"\n") + 1)


class Storage:
    """The storage of a study.

    Attributes:
        name: how messages name it. It contains no password.
    """

    def __init__(self, workdir: Path, url: str | None):
        """`url` is that of a database as SQLAlchemy takes it; None: the journal in the workdir."""
        self._journal, self._url, self._secrets = workdir / JOURNAL, url, list[str]()
        self.name = f"--workdir: {self._journal}"
        if url is not None:
            self.name = f"--storage: {self._without_password(url)}"

    def open(self) -> optuna.storages.BaseStorage:
        """Connects to the storage; creates the journal or the tables.

        Raises:
            BadInput: it cannot be used.
        """
        from sqlalchemy.pool import NullPool

        with self.errors():
            if self._url is None:
                return optuna.storages.JournalStorage(Journal(self._journal))
            # a server or a firewall may close a connection that is idle during a long trial
            return optuna.storages.RDBStorage(self._url, engine_kwargs={"poolclass": NullPool})

    @contextmanager
    def errors(self) -> Iterator[None]:
        """Reports the errors of the storage in the block.

        Raises:
            BadInput: the database cannot be reached or used, or the journal is damaged.
            Unwritable: the journal cannot be written.
        """
        from sqlalchemy.exc import SQLAlchemyError

        try:
            yield
        except (SQLAlchemyError, optuna.exceptions.StorageInternalError) as error:
            advice = "check the address and that the database runs; then the same command goes on"
            raise BadInput(f"{self.name}: {self._reason(error)}; {advice}") from None
        except ImportError as error:
            missing = getattr(error.__cause__, "name", None) or "the driver"
            raise BadInput(f"{self.name}: {missing} is not installed; install the driver of this database") from None
        except (ValueError, RuntimeError) as error:
            raise BadInput(f"{self.name}: it cannot be used ({self._hidden(in_one_line(error))})") from None
        except OSError as error:
            raise Unwritable(
                f"{error.filename or self._journal} cannot be written ({error.strerror or error})"
            ) from error

    def _without_password(self, url: str) -> str:
        """The address for messages, without its password and options. Remembers the passwords, to hide them later."""
        from sqlalchemy.engine import make_url
        from sqlalchemy.exc import SQLAlchemyError

        try:
            parsed = make_url(url)
        except (SQLAlchemyError, ValueError):
            raise BadInput(
                "--storage: it is not the URL of a database; use, for example, postgresql+psycopg://user@host/name"
            ) from None
        options = [value for name, values in parsed.normalized_query.items() if "pass" in name for value in values]
        for secret in filter(None, [parsed.password, *options]):
            self._secrets += [str(secret), quote(str(secret), safe=""), quote_plus(str(secret))]
        return parsed.set(query={}).render_as_string(hide_password=True)

    def _reason(self, error: Exception) -> str:
        """What the driver says, in one line."""
        while isinstance(error.__cause__, Exception):
            error = error.__cause__
        return self._hidden(in_one_line(error))

    def _hidden(self, text: str) -> str:
        for secret in sorted(self._secrets, key=len, reverse=True):
            text = text.replace(secret, "***")
        return text
