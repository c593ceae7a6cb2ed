"""send_confirmation: mails the customer that the order arrived."""

from typing import TYPE_CHECKING

from order_handler.action import HOST, WORD, Action, Email, Need, Opening, OrderMessage
from order_handler.delivery import Delivery

if TYPE_CHECKING:
    from order_handler.mail import Mail

_ATOM = r"(?:[A-Za-z0-9!'*+=_~-]|%2[Bb])+"
SMTP_URL = Need(
    "SMTP_URL",
    "Mail server and sender of the confirmations",
    pattern=rf"(?=[!-~]+\Z)smtps?://(?:{WORD}:{WORD}@)?{HOST}/?"
    rf"\?from={_ATOM}(?:\.{_ATOM})*(?:@|%40)[A-Za-z0-9-]{{1,63}}(?:\.[A-Za-z0-9-]{{1,63}})*",
    accepts="smtp[s]://[USER:PASSWORD@]HOST[:PORT]?from=ADDRESS",
)


class SendConfirmation(OrderMessage, rename="camel", frozen=True, kw_only=True):
    customer_email: Email


async def run(message: SendConfirmation, mail: "Mail | None", delivery: Delivery | None) -> str:
    if mail is None:
        return f"Confirmation mail for {message.order_id} sent (simulated)"
    # a server that refused the whole letter three times may take its text
    plain = delivery is not None and (delivery.attempt or 1) >= 4
    await mail.confirm(message.order_id, message.effect, message.customer_email, plain=plain)
    return f"Confirmation mail for {message.order_id} sent{' as plain text' if plain else ''}"


def open_mail(opening: Opening) -> "Mail":
    from order_handler.environment import mail_server
    from order_handler.mail import Mail

    return Mail(mail_server(opening.values["SMTP_URL"]), opening.ledger)


ACTION = Action(SendConfirmation, run, open_mail, (SMTP_URL,))
