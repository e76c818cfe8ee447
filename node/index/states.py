"""How studies and deliveries stand, as the index says it."""

RECEIVING, RETRYING, QUEUED, ANALYZED = "receiving", "retrying", "queued", "analyzed"
CANCELLED = "cancelled"
PURGING = "purging"
# An archive said Success (delivered); it says that it keeps the object, or that it holds it (confirmed).
PENDING, DELIVERED, CONFIRMED = "pending", "delivered", "confirmed"
UNDELIVERABLE, WITHDRAWN = "undeliverable", "withdrawn"
DELIVERY_STATES = (PENDING, DELIVERED, CONFIRMED, UNDELIVERABLE, WITHDRAWN)
