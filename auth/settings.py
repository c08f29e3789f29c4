"""Load the signing key, and the pepper of API keys, from a process's settings."""

from auth.api_keys import InvalidPepper, Pepper, Peppers, derive_pepper
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


def peppers(settings: WorkerSettings) -> Peppers:
    """Return the peppers of API keys.

    Raises:
        ConfigurationError: there is none, or one is too short.
    """
    current = _pepper(*settings.pepper_text())
    former = settings.former_pepper_text()
    return Peppers(current, () if former is None else (_pepper(*former),))


def _pepper(text: str, name: str) -> Pepper:
    try:
        return derive_pepper(text)
    except InvalidPepper as error:
        raise ConfigurationError(f"{name}: {error}") from None
