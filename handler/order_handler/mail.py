"""The confirmation mail, over SMTP: one conversation a mail, within the ledger's claim.

Owns the letter and what a server's answer means: a recipient or a message that is refused for good is a permanent
failure, and a server that is away or refuses the shop is not. An error here contains neither an address nor a text of
the server, which may quote one.
"""

import html
import re
from asyncio import timeout
from contextlib import suppress
from datetime import UTC, datetime
from email.headerregistry import Address
from email.message import EmailMessage

from aiosmtplib import (
    SMTP,
    SMTPDataError,
    SMTPException,
    SMTPNotSupported,
    SMTPRecipientsRefused,
    SMTPResponseException,
)

from order_handler.environment import MailServer
from order_handler.errors import PermanentError, TransientError
from order_handler.ledger import Ledger, identity

# RFC 3463, as in `550 5.1.1 ...`.
_ENHANCED_CODE = re.compile(r"[245]\.[0-9]{1,3}\.[0-9]{1,3}\b")
# RFC 4954: the server asks for a login, or refuses ours. That is no fault of the mail.
_AUTHENTICATION = {530, 534, 535, 538}


class Mail:
    def __init__(self, server: MailServer, ledger: Ledger) -> None:
        self._server = server
        self._ledger = ledger
        self._domain = server.sender.rpartition("@")[2]

    async def confirm(self, order_id: str, action: str, address: str, *, plain: bool = False) -> None:
        """Tells the customer that the order arrived. Raises what the ledger raises; PermanentError, TransientError."""
        letter = self._letter(order_id, action, address, plain)
        smtp = SMTP(
            hostname=self._server.host,
            port=self._server.port,
            username=self._server.user,
            password=self._server.password,
            use_tls=self._server.tls,
            # None uses it if the server offers it. A password is never sent without.
            start_tls=None if self._server.tls or self._server.user is None else True,
            # Looking up the machine's own name would block.
            local_hostname=self._domain,
            # The ledger limits the whole effect.
            timeout=None,
        )
        try:
            async with self._ledger.once(order_id, action):
                await _deliver(smtp, letter)
            # The mail is out: a server that is slow to say goodbye does not matter.
            with suppress(SMTPException, OSError):
                async with timeout(1):
                    await smtp.quit()
        finally:
            smtp.close()

    def _letter(self, order_id: str, action: str, address: str, plain: bool) -> EmailMessage:
        # Control characters could end a header or a line.
        shown = "".join(character if character.isprintable() else " " for character in order_id)
        letter = EmailMessage()
        letter["From"] = self._server.sender
        letter["To"] = _recipient(address)
        letter["Subject"] = f"Your order {shown}"
        letter["Date"] = datetime.now(UTC)
        letter["Message-ID"] = f"<{identity(order_id, action)}@{self._domain}>"
        letter["Auto-Submitted"] = "auto-generated"
        letter.set_content(f"Thank you for your order.\n\nWe received your order {shown} and are preparing it.\n")
        if not plain:
            letter.add_alternative(
                "<!doctype html><title>Your order</title><p>Thank you for your order.</p>"
                f"<p>We received your order <strong>{html.escape(shown)}</strong> and are preparing it.</p>\n",
                subtype="html",
            )
        return letter


def _recipient(text: str) -> Address:
    try:
        address = Address(addr_spec=text)
        domain = address.domain.encode("idna").decode()
    # Whatever the parser raises, its text quotes the address.
    except Exception:
        raise PermanentError("Malformed customerEmail") from None
    if not address.username or not domain:
        raise PermanentError("Malformed customerEmail")
    return Address(username=address.username, domain=domain)


async def _deliver(smtp: SMTP, letter: EmailMessage) -> None:
    try:
        await smtp.connect()
        await _send(smtp, letter)
    except SMTPRecipientsRefused as error:
        raise _refusal("recipient", error.recipients[0]) from None
    except SMTPDataError as error:
        raise _refusal("message", error) from None
    except SMTPResponseException as error:
        raise TransientError(f"The mail server answered {_code(error)} ({type(error).__name__})") from None
    except (SMTPException, OSError) as error:
        raise TransientError(f"No mail server: {error}") from None


async def _send(smtp: SMTP, letter: EmailMessage) -> None:
    try:
        await smtp.send_message(letter)
    # The library refuses the address, in a text that contains it.
    except (ValueError, SMTPNotSupported):
        raise PermanentError("Malformed customerEmail") from None


def _refusal(what: str, error: SMTPResponseException) -> Exception:
    text = f"The mail server refused the {what}: {_code(error)}"
    return PermanentError(text) if error.code >= 500 and error.code not in _AUTHENTICATION else TransientError(text)


def _code(error: SMTPResponseException) -> str:
    enhanced = _ENHANCED_CODE.match(error.message)
    return f"{error.code} {enhanced[0]}" if enhanced else str(error.code)
