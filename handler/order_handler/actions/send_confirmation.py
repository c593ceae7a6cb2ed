"""send_confirmation: mails the customer that the order arrived, over SMTP, one conversation a mail.

A recipient or a message that is refused for good is a permanent failure; a server that is away or refuses the shop is
not. An error here contains neither an address nor a text of the server, which may quote one.
"""

import html
import re
from asyncio import timeout
from contextlib import suppress
from datetime import UTC, datetime
from email.headerregistry import Address
from email.message import EmailMessage
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, unquote, urlsplit

from order_handler.action import HOST, WORD, Action, Email, Need, OrderMessage, identity
from order_handler.delivery import Delivery
from order_handler.errors import PermanentError, TransientError

if TYPE_CHECKING:
    from aiosmtplib import SMTP, SMTPResponseException

    from order_handler.ledger import Ledger

_ATOM = r"(?:[A-Za-z0-9!'*+=_~-]|%2[Bb])+"
SMTP_URL = Need(
    "SMTP_URL",
    "Mail server and sender of the confirmations",
    pattern=rf"(?=[!-~]+\Z)smtps?://(?:{WORD}:{WORD}@)?{HOST}/?"
    rf"\?from={_ATOM}(?:\.{_ATOM})*(?:@|%40)[A-Za-z0-9-]{{1,63}}(?:\.[A-Za-z0-9-]{{1,63}})*",
    accepts="smtp[s]://[USER:PASSWORD@]HOST[:PORT]?from=ADDRESS",
)

# RFC 3463, as in `550 5.1.1 ...`.
_ENHANCED_CODE = re.compile(r"[245]\.[0-9]{1,3}\.[0-9]{1,3}\b")
# RFC 4954: the server asks for a login, or refuses ours. That is no fault of the mail.
_AUTHENTICATION = {530, 534, 535, 538}


class SendConfirmation(OrderMessage, rename="camel", frozen=True, kw_only=True):
    customer_email: Email


async def run(message: SendConfirmation, mail: "Mail | None", delivery: Delivery | None) -> str:
    if mail is None:
        return f"Confirmation mail for {message.order_id} sent (simulated)"
    # a server that refused the whole letter three times may take its text
    plain = delivery is not None and (delivery.attempt or 1) >= 4
    await mail.confirm(message.order_id, message.effect, message.customer_email, plain=plain)
    return f"Confirmation mail for {message.order_id} sent{' as plain text' if plain else ''}"


class Mail:
    def __init__(self, url: str, ledger: "Ledger") -> None:
        """`url`: an SMTP_URL."""
        parts = urlsplit(url)
        tls = parts.scheme == "smtps"
        # A plus sign in an address is not a space.
        self.sender = parse_qs(parts.query.replace("+", "%2B"))["from"][0]
        self._domain = self.sender.rpartition("@")[2]
        self._ledger = ledger
        self.server: dict[str, Any] = {
            "hostname": parts.hostname,
            # Submission ports: Cloud Run blocks port 25.
            "port": parts.port or (465 if tls else 587),
            "username": None if parts.username is None else unquote(parts.username),
            "password": None if parts.password is None else unquote(parts.password),
            "use_tls": tls,
            # None uses it if the server offers it. A password is never sent without.
            "start_tls": None if tls or parts.username is None else True,
        }

    async def confirm(self, order_id: str, action: str, address: str, *, plain: bool = False) -> None:
        """Tells the customer that the order arrived. Raises what the ledger raises; PermanentError, TransientError."""
        from aiosmtplib import SMTP, SMTPException

        letter = self._letter(order_id, action, address, plain)
        # Looking up the machine's own name would block. The ledger limits the whole effect.
        smtp = SMTP(**self.server, local_hostname=self._domain, timeout=None)
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
        letter["From"] = self.sender
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


async def _deliver(smtp: "SMTP", letter: EmailMessage) -> None:
    import aiosmtplib as library

    try:
        await smtp.connect()
        try:
            await smtp.send_message(letter)
        # The library refuses the address, in a text that contains it.
        except (ValueError, library.SMTPNotSupported):
            raise PermanentError("Malformed customerEmail") from None
    except library.SMTPRecipientsRefused as error:
        raise _refusal("recipient", error.recipients[0]) from None
    except library.SMTPDataError as error:
        raise _refusal("message", error) from None
    except library.SMTPResponseException as error:
        raise TransientError(f"The mail server answered {_code(error)} ({type(error).__name__})") from None
    except (library.SMTPException, OSError) as error:
        raise TransientError(f"No mail server: {error}") from None


def _refusal(what: str, error: "SMTPResponseException") -> Exception:
    text = f"The mail server refused the {what}: {_code(error)}"
    return PermanentError(text) if error.code >= 500 and error.code not in _AUTHENTICATION else TransientError(text)


def _code(error: "SMTPResponseException") -> str:
    enhanced = _ENHANCED_CODE.match(error.message)
    return f"{error.code} {enhanced[0]}" if enhanced else str(error.code)


ACTION = Action(SendConfirmation, run, lambda opening: Mail(opening.values["SMTP_URL"], opening.ledger), (SMTP_URL,))
