"""Who we trust, and who we are, as files say it."""

import ssl
from pathlib import Path

from imaging_pipeline.errors import Code, PipelineError
from imaging_pipeline.pacs.settings import SendSettings


def client_context(settings: SendSettings) -> ssl.SSLContext:
    """TLS 1.2 or newer, the other side's certificate always checked.

    Raises:
        PipelineError: `settings-invalid` for files that are no certificate or key, or cannot be read.
    """
    certificate, key = settings.certificate_file, settings.key_file
    try:
        context = ssl.create_default_context(cafile=settings.ca_file)
        if certificate is not None:
            # a password would be asked for on the terminal
            context.load_cert_chain(certificate, key, password=lambda: b"")
    except (OSError, ValueError) as error:  # ssl's own error is an OSError
        named = ", ".join(str(file) for file in (settings.ca_file, certificate, key) if file is not None)
        message = f"no certificates can be read from {named}: {error.strerror if isinstance(error, OSError) else error}"
        hint = "name PEM files in send.ca_file, send.certificate_file and send.key_file, the key without a password"
        raise PipelineError(Code.SETTINGS_INVALID, message, hint) from None
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.check_hostname = settings.check_host_name
    return context


def read_token(file: Path) -> str:
    """A bearer token from its file.

    Raises:
        PipelineError: `settings-invalid`.
    """
    try:
        token = file.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        message = f"cannot read the token in {file}: {getattr(error, 'strerror', None) or 'it is no ASCII'}"
        raise PipelineError(Code.SETTINGS_INVALID, message, "name a readable file in send.token_file") from None
    if not token or not token.isprintable() or " " in token:
        message = f"{file} holds no token, or more than one"
        raise PipelineError(Code.SETTINGS_INVALID, message, "write the token alone into it")
    return token


def check_files(settings: SendSettings) -> None:
    """See before a run that the files which settings name can be used.

    Raises:
        PipelineError: `settings-invalid`.
    """
    if settings.tls or settings.ca_file or settings.certificate_file:
        client_context(settings)
    if settings.token_file is not None:
        read_token(settings.token_file)
