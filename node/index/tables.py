"""The tables of the index."""

import sqlalchemy as sa

METADATA = sa.MetaData()
STUDIES = sa.Table(
    "studies",
    METADATA,
    sa.Column("study_instance_uid", sa.String(64), primary_key=True),
    sa.Column("state", sa.String(16), nullable=False, index=True),
    sa.Column("first_received_at", sa.Float, nullable=False),
    sa.Column("last_received_at", sa.Float, nullable=False),
    sa.Column("retries", sa.Integer, nullable=False, default=0),
    sa.Column("evidence", sa.Text, nullable=False, default=""),
    sa.Column("outcome", sa.String(16), nullable=False, default=""),
    sa.Column("reason", sa.Text, nullable=False, default=""),
    sa.Column("job_id", sa.String(64), nullable=False, default=""),
)
INSTANCES = sa.Table(
    "instances",
    METADATA,
    sa.Column("sop_instance_uid", sa.String(64), primary_key=True),
    sa.Column("digest", sa.String(32), primary_key=True),
    sa.Column("called_ae_title", sa.String(16), primary_key=True),
    sa.Column("calling_ae_title", sa.String(16), nullable=False),
    sa.Column("study_instance_uid", sa.String(64), nullable=False, index=True),
    sa.Column("series_instance_uid", sa.String(64), nullable=False),
    sa.Column("sop_class_uid", sa.String(64), nullable=False),
    sa.Column("transfer_syntax_uid", sa.String(64), nullable=False),
    sa.Column("modality", sa.String(16), nullable=False),
    sa.Column("path", sa.Text, nullable=False),
    sa.Column("received_at", sa.Float, nullable=False),
)
RUNS = sa.Table(
    "runs",
    METADATA,
    sa.Column("run_id", sa.String(64), primary_key=True),
    sa.Column("job_id", sa.String(64), nullable=False, index=True),
    sa.Column("study_instance_uid", sa.String(64), nullable=False, index=True),
    sa.Column("series_instance_uid", sa.String(64), nullable=False),
    sa.Column("pipeline", sa.String(64), nullable=False),
    sa.Column("subject", sa.String(64), nullable=False, default="", index=True),
    sa.Column("planned_at", sa.String(40), nullable=False, default=""),
    sa.Column("outcome", sa.String(16), nullable=False, default=""),
    sa.Column("reason", sa.Text, nullable=False, default=""),
    sa.Column("priority", sa.String(16), nullable=False, default="routine"),
    sa.Column("scores", sa.JSON, nullable=False, default=list),
    sa.Column("regions", sa.JSON, nullable=False, default=list),
    sa.Column("seconds", sa.JSON, nullable=False, default=dict),
    sa.Column("is_finished", sa.Boolean, nullable=False, default=False),
)
OBJECTS = sa.Table(
    "objects",
    METADATA,
    sa.Column("sop_instance_uid", sa.String(64), primary_key=True),
    sa.Column("run_id", sa.String(64), nullable=False, index=True),
    sa.Column("kind", sa.String(32), nullable=False),
    sa.Column("series_instance_uid", sa.String(64), nullable=False),
    sa.Column("sop_class_uid", sa.String(64), nullable=False),
    sa.Column("path", sa.Text, nullable=False),
    # By those of another outcome of the same run, after an archive had them.
    sa.Column("is_replaced", sa.Boolean, nullable=False, default=False),
)
QUARANTINE = sa.Table(
    "quarantine",
    METADATA,
    sa.Column("sop_instance_uid", sa.String(64), primary_key=True),
    sa.Column("run_id", sa.String(64), nullable=False, index=True),
    sa.Column("kind", sa.String(32), nullable=False),
    sa.Column("series_instance_uid", sa.String(64), nullable=False),
    sa.Column("sop_class_uid", sa.String(64), nullable=False),
    sa.Column("path", sa.Text, nullable=False),
    sa.Column("violations", sa.JSON, nullable=False),
)
DELIVERIES = sa.Table(
    "deliveries",
    METADATA,
    sa.Column("sop_instance_uid", sa.String(64), primary_key=True),
    sa.Column("destination", sa.String(64), primary_key=True),
    sa.Column("state", sa.String(16), nullable=False),
    sa.Column("detail", sa.Text, nullable=False, default=""),
    sa.Column("at", sa.Float, nullable=False),
    sa.Column("queued_at", sa.Float, nullable=False, server_default="0"),
    # When the outbox has to do something about it; NULL is never again.
    sa.Column("due_at", sa.Float),
    sa.Column("attempts", sa.Integer, nullable=False, server_default="0"),
    sa.Column("confirm_by", sa.String(16), nullable=False, server_default=""),
    sa.Column("questions", sa.Integer, nullable=False, server_default="0"),
    sa.Column("transaction_uid", sa.String(64), nullable=False, server_default="", index=True),
    # Each outbox looks twice a second for what is due: of all that was ever delivered, that is little.
    sa.Index("ix_deliveries_due", "destination", "due_at"),
)
# How a destination stands, beyond its configuration.
LINES = sa.Table(
    "lines",
    METADATA,
    sa.Column("destination", sa.String(64), primary_key=True),
    sa.Column("is_paused", sa.Boolean, nullable=False, default=False),
    sa.Column("failures", sa.Integer, nullable=False, default=0),
    sa.Column("blocked_until", sa.Float, nullable=False, default=0.0),
    sa.Column("last_error", sa.Text, nullable=False, default=""),
    sa.Column("last_success_at", sa.Float),
)
# Storage commitment that was asked of archives: which transaction is whose.
TRANSACTIONS = sa.Table(
    "transactions",
    METADATA,
    sa.Column("transaction_uid", sa.String(64), primary_key=True),
    sa.Column("destination", sa.String(64), nullable=False),
    sa.Column("is_accepted", sa.Boolean, nullable=False, default=False),
    sa.Column("asked_at", sa.Float, nullable=False),
    sa.Column("answered_at", sa.Float),
)
# Storage commitment that was asked of this node, and whose report is owed.
COMMITMENTS = sa.Table(
    "commitments",
    METADATA,
    sa.Column("transaction_uid", sa.String(64), primary_key=True),
    sa.Column("ae_title", sa.String(16), primary_key=True),
    sa.Column("called_ae_title", sa.String(16), nullable=False),
    sa.Column("instances", sa.JSON, nullable=False),
    sa.Column("asked_at", sa.Float, nullable=False),
    sa.Column("attempts", sa.Integer, nullable=False, default=0),
    sa.Column("due_at", sa.Float, nullable=False),
)
# Studies with instances that a peer was told are kept.
PROMISES = sa.Table(
    "promises",
    METADATA,
    sa.Column("study_instance_uid", sa.String(64), primary_key=True),
)
FEEDBACK = sa.Table(
    "feedback",
    METADATA,
    sa.Column("sop_instance_uid", sa.String(64), primary_key=True),
    sa.Column("result_sop_instance_uid", sa.String(64), primary_key=True, index=True),
    sa.Column("tracking_unique_identifier", sa.String(64), primary_key=True),
    sa.Column("finding", sa.Text, nullable=False),
    sa.Column("verdict", sa.String(16), nullable=False),
    sa.Column("author", sa.String(64), nullable=False),
    sa.Column("received_at", sa.Float, nullable=False),
)
EVENTS = sa.Table(
    "events",
    METADATA,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("study_instance_uid", sa.String(64), nullable=False, index=True),
    sa.Column("at", sa.Float, nullable=False),
    sa.Column("event", sa.String(64), nullable=False),
    sa.Column("fields", sa.JSON, nullable=False),
)

# Our own results that came back, and what is said of them, are not read.
IS_READ = sa.and_(
    ~sa.exists().where(OBJECTS.c.sop_instance_uid == INSTANCES.c.sop_instance_uid),
    ~sa.exists().where(FEEDBACK.c.sop_instance_uid == INSTANCES.c.sop_instance_uid),
)
