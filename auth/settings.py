"""Load the signing key from a process's settings."""

from auth.tokens import InvalidKey, SigningKey, load_key
from runtime.settings import ConfigurationError, WorkerSettings


def signing_key(settings: WorkerSettings) -> SigningKey:
    """Return the key that signs tokens.

    Raises:
        ConfigurationError: there is no key, or it is invalid.
    """
    text = settings.jwt_key_text()
    try:
        return load_key(text)
    except InvalidKey as error:
        name = "JWT_KEY" if settings.jwt_key is not None or settings.jwt_key_file is None else "JWT_KEY_FILE"
        raise ConfigurationError(f"{name}: {error}") from None
