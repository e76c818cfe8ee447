"""How studies and deliveries stand, as the index says it."""

RECEIVING, RETRYING, QUEUED, ANALYZED = "receiving", "retrying", "queued", "analyzed"
PENDING, DELIVERED, UNDELIVERABLE = "pending", "delivered", "undeliverable"
