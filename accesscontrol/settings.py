"""Settings: the environment read once, typed, and loud when wrong.

Two modes, one code path. `embedded` (default): SQLite, tasks on threads of this process, secrets from the ignored
file that `manage.py set_up` writes. `production`: Postgres, Redis, Celery; refuses to start with a weak or missing
secret. Names in the environment and names here are the same.
"""

from __future__ import annotations

import os
from datetime import timedelta
from pathlib import Path
from typing import cast

import django_stubs_ext
import structlog
from django.core.exceptions import ImproperlyConfigured

from accesscontrol.environment import (
    KEY_LISTS,
    Environment,
    EnvironmentProblems,
    generate_secrets,
    parse_env_file,
    secret_key_problem,
)
from recognition.fetch_models import models_folder

django_stubs_ext.monkeypatch()  # lets code say `ModelForm[Site]`, which type checkers need

BASE_DIR = Path(__file__).resolve().parent.parent
LINTEL_DATA_DIR = Path(os.environ.get("LINTEL_DATA_DIR") or BASE_DIR / ".lintel").resolve()
LINTEL_SECRETS_FILE = Path(os.environ.get("LINTEL_SECRETS_FILE") or LINTEL_DATA_DIR / "secrets.env")

try:
    _from_file = parse_env_file(LINTEL_SECRETS_FILE.read_text()) if LINTEL_SECRETS_FILE.exists() else {}
except (OSError, ValueError) as problem:
    raise ImproperlyConfigured(f"{LINTEL_SECRETS_FILE} cannot be read: {problem}") from problem
env = Environment({**_from_file, **os.environ})

# -- What kind of installation this is --------------------------------------------------------------------------

LINTEL_MODE = env.choice("LINTEL_MODE", "embedded", ("embedded", "production"))
PRODUCTION = LINTEL_MODE == "production"
DEBUG = env.flag("LINTEL_DEBUG", False)
if DEBUG and PRODUCTION:
    env.problems.append(
        "LINTEL_DEBUG is true: a page of an error would show secrets, so production refuses it"
    )

# -- Secrets ----------------------------------------------------------------------------------------------------

#: True while nothing has generated secrets yet. Commands and tests may run so; a server may not (see wsgi.py),
#: because what it sealed could not be opened after the next start.
LINTEL_SECRETS_ARE_EPHEMERAL = False
if not PRODUCTION and not any(name in env.values for name in ("LINTEL_SECRET_KEY", *KEY_LISTS)):
    LINTEL_SECRETS_ARE_EPHEMERAL = True
    env.values = {**env.values, **generate_secrets(os.urandom, key_id="ephemeral")}

SECRET_KEY = env.required(
    "LINTEL_SECRET_KEY", "it signs sessions; `manage.py generate_secrets --print` makes one"
)
if SECRET_KEY and (_weakness := secret_key_problem(SECRET_KEY)):
    env.problems.append(f"LINTEL_SECRET_KEY is weak: {_weakness}")
#: Lists of (id, 32 bytes), newest first: seal the data keys of people; rotate templates; sign replies and checkpoints.
LINTEL_KEY_ENCRYPTION_KEYS = env.keys("LINTEL_KEY_ENCRYPTION_KEYS")
LINTEL_GALLERY_KEYS = env.keys("LINTEL_GALLERY_KEYS")
LINTEL_SIGNING_KEYS = env.keys("LINTEL_SIGNING_KEYS")
for _name in KEY_LISTS:
    env.required(
        _name, "a list id:base64 of 32 random bytes each; `manage.py generate_secrets --print` makes one"
    )
_all_keys = [
    key for keys in (LINTEL_KEY_ENCRYPTION_KEYS, LINTEL_GALLERY_KEYS, LINTEL_SIGNING_KEYS) for _, key in keys
]
if len(set(_all_keys)) != len(_all_keys):
    env.problems.append("one key serves two purposes: every key list needs keys of its own")

# -- Recognition and doors --------------------------------------------------------------------------------------

LINTEL_MODEL = env.text("LINTEL_MODEL", "default")
LINTEL_DEVICE = env.text("LINTEL_DEVICE", "cpu")
LINTEL_TARGET_FPIR = env.number("LINTEL_TARGET_FPIR", 0.01, minimum=1e-6, maximum=0.5)
LINTEL_ATTEMPT_DEADLINE_MS = env.integer("LINTEL_ATTEMPT_DEADLINE_MS", 3000, minimum=100, maximum=30_000)
LINTEL_PAYLOAD_TTL_S = env.integer("LINTEL_PAYLOAD_TTL_S", 30, minimum=1, maximum=600)
#: How long a door that asks for a PIN or a card besides a face waits for it.
LINTEL_PROOF_TTL_S = env.integer("LINTEL_PROOF_TTL_S", 45, minimum=10, maximum=300)
LINTEL_CLOCK_WINDOW_S = env.integer("LINTEL_CLOCK_WINDOW_S", 60, minimum=5, maximum=300)
#: Whether a door says the name of whom it lets in. Everybody who stands at the door reads it, so not by default.
LINTEL_GREET_BY_NAME = env.flag("LINTEL_GREET_BY_NAME", False)
#: Name of this installation's audit log in its signed checkpoints, best the server's own: doors.example.org/audit.
LINTEL_AUDIT_ORIGIN = env.text("LINTEL_AUDIT_ORIGIN", "lintel.local/audit")
if any(character.isspace() or character == "+" for character in LINTEL_AUDIT_ORIGIN):
    env.problems.append("LINTEL_AUDIT_ORIGIN must be one word without a plus")
#: Threads that run tasks inside an embedded process, and so the most captures one batch can hold there.
LINTEL_EMBEDDED_THREADS = env.integer("LINTEL_EMBEDDED_THREADS", 8, minimum=1, maximum=64)
# The model's threads turn in a loop for a while before they sleep. OpenMP's own 300,000 turns bridge more than the
# pauses within a model: they keep cores busy for milliseconds after it, while a database has an answer to write.
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")

# -- Who may talk to it -----------------------------------------------------------------------------------------

LINTEL_PUBLIC_URL = env.text("LINTEL_PUBLIC_URL", "" if PRODUCTION else "http://127.0.0.1:8000")
ALLOWED_HOSTS = env.words("LINTEL_ALLOWED_HOSTS", () if PRODUCTION else ("[::1]",))
if PRODUCTION:
    env.required("LINTEL_ALLOWED_HOSTS", "the names under which terminals and browsers reach this server")
    env.required("LINTEL_PUBLIC_URL", "for example https://doors.example.org")
    if "*" in ALLOWED_HOSTS:
        env.problems.append(
            "LINTEL_ALLOWED_HOSTS is *: name the hosts, else replies can be asked under any name"
        )
    if LINTEL_PUBLIC_URL and not LINTEL_PUBLIC_URL.startswith("https://"):
        env.problems.append("LINTEL_PUBLIC_URL must begin with https:// in production")
# Supervisors and Prometheus on this machine ask under its own names.
ALLOWED_HOSTS += [name for name in ("127.0.0.1", "localhost") if name not in ALLOWED_HOSTS]
#: Proxies in front that append to X-Forwarded-For; 0 believes the header from nobody.
LINTEL_PROXY_HOPS = env.integer("LINTEL_PROXY_HOPS", 1 if PRODUCTION else 0, minimum=0, maximum=5)
#: Bearer token for /metrics from elsewhere than this machine; empty allows this machine only.
LINTEL_METRICS_TOKEN = env.text("LINTEL_METRICS_TOKEN")
if LINTEL_METRICS_TOKEN and len(LINTEL_METRICS_TOKEN) < 24:
    env.problems.append("LINTEL_METRICS_TOKEN is weak: at least 24 characters are needed")
#: Port of 127.0.0.1 on which a worker shows its own metrics; 0 shows none.
LINTEL_WORKER_METRICS_PORT = env.integer("LINTEL_WORKER_METRICS_PORT", 0, minimum=0, maximum=65535)

# -- Database, cache, tasks -------------------------------------------------------------------------------------

_postgres = env.database("LINTEL_DATABASE_URL")
if PRODUCTION:
    env.required("LINTEL_DATABASE_URL", "production keeps its rows in Postgres")
    env.required("LINTEL_REDIS_URL", "production hands work and payloads over through Redis")
#: Whoever waits so long for another's lock gives up: a door is told that the database is not available.
DATABASE_LOCK_TIMEOUT_S = 10
if _postgres:
    _options = cast("dict[str, str]", _postgres["OPTIONS"])
    _options.setdefault("options", f"-c lock_timeout={DATABASE_LOCK_TIMEOUT_S}s")
DATABASES: dict[str, dict[str, object]] = {
    "default": {**_postgres, "CONN_MAX_AGE": 60, "CONN_HEALTH_CHECKS": True}
    if _postgres
    else {
        "ENGINE": "django.db.backends.sqlite3",
        "NAME": LINTEL_DATA_DIR / "lintel.sqlite3",
        "CONN_MAX_AGE": 60,  # opening the file and setting its pragmas costs a door a few milliseconds each time
        "OPTIONS": {
            # IMMEDIATE: a transaction that will write takes its lock first, so it waits instead of failing half-way.
            "transaction_mode": "IMMEDIATE",
            "timeout": DATABASE_LOCK_TIMEOUT_S,
            # secure_delete: an erased template must not stay readable in a free page of the file.
            "init_command": (
                "PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL; PRAGMA foreign_keys=ON; PRAGMA secure_delete=ON;"
            ),
        },
    }
}

LINTEL_REDIS_URL = env.text("LINTEL_REDIS_URL")
CACHES = {
    "default": {"BACKEND": "django.core.cache.backends.redis.RedisCache", "LOCATION": LINTEL_REDIS_URL}
    if PRODUCTION
    else {"BACKEND": "django.core.cache.backends.locmem.LocMemCache", "LOCATION": "lintel"}
}

CELERY_BROKER_URL = LINTEL_REDIS_URL or "memory://"
CELERY_TASK_IGNORE_RESULT = True
CELERY_TASK_ACKS_LATE = True
CELERY_TASK_REJECT_ON_WORKER_LOST = True
CELERY_WORKER_PREFETCH_MULTIPLIER = 1
CELERY_TASK_DEFAULT_QUEUE = "maintenance"
CELERY_TASK_SERIALIZER = "json"
CELERY_ACCEPT_CONTENT = ["json"]
CELERY_TIMEZONE = "UTC"
CELERY_ENABLE_UTC = True
CELERY_BROKER_CONNECTION_RETRY_ON_STARTUP = True
CELERY_WORKER_HIJACK_ROOT_LOGGER = False
CELERY_BROKER_TRANSPORT_OPTIONS = {
    # A task that died with its worker comes back after this many seconds; Celery's default of an hour would leave a
    # door waiting. A longer task would be handed out twice, and every task here tolerates that.
    "visibility_timeout": 60,
    "socket_timeout": 5,
    "socket_connect_timeout": 2,
    # Of whoever hands over; a worker goes on trying by rules of its own.
    "max_retries": 1,
    "interval_start": 0,
    "interval_step": 0.1,
    "interval_max": 0.1,
}
# An attempt whose broker is gone must be refused at once and not after minutes of retries.
CELERY_TASK_PUBLISH_RETRY = False

CELERY_IMPORTS = ["accesscontrol.worker"]
#: How enrollment, which knows no queue, hands work over.
LINTEL_DISPATCH = "accesscontrol.celery.dispatch"
#: How enrollment, which knows no terminals, learns whether one may take captures.
LINTEL_MAY_ENROLL = "accesscontrol.desks.may_enroll"
#: Task name -> seconds. A thread runs them in an embedded server, Celery's beat in production.
LINTEL_PERIODIC_TASKS = {
    "accesscontrol.tasks.expire_attempts": 2.0,
    "accesscontrol.tasks.watch": 60.0,
    "accesscontrol.tasks.sign_checkpoint": 300.0,
    "accesscontrol.tasks.verify_audit": 6 * 3600.0,
    "enrollment.tasks.expire": 60.0,
}
CELERY_BEAT_SCHEDULE = {
    # An entry that no worker took in time is worth nothing: the next one does the same.
    name: {"task": name, "schedule": seconds, "options": {"expires": seconds}}
    for name, seconds in LINTEL_PERIODIC_TASKS.items()
}
CELERY_BEAT_SCHEDULE_FILENAME = str(LINTEL_DATA_DIR / "beat-schedule")

# -- Applications -----------------------------------------------------------------------------------------------

INSTALLED_APPS = [
    "accesscontrol",
    "enrollment",
    "audit",
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "whitenoise.runserver_nostatic",
    "django.contrib.staticfiles",
    "django.contrib.humanize",
    "rest_framework",
    "drf_spectacular",
    "drf_spectacular_sidecar",
    "axes",
    "django_otp",
    "django_otp.plugins.otp_totp",
    "django_otp.plugins.otp_static",
    "django_htmx",
]
MIDDLEWARE = [
    "accesscontrol.middleware.ClientAddress",
    "django.middleware.security.SecurityMiddleware",
    "accesscontrol.middleware.SecurityHeaders",
    "accesscontrol.middleware.AttemptsAtOnce",
    "whitenoise.middleware.WhiteNoiseMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django_otp.middleware.OTPMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
    "django_htmx.middleware.HtmxMiddleware",
    "accesscontrol.gate.TimeZone",
    "accesscontrol.gate.RoleGate",
    "axes.middleware.AxesMiddleware",
]
ROOT_URLCONF = "accesscontrol.urls"
WSGI_APPLICATION = "accesscontrol.wsgi.application"
ASGI_APPLICATION = "accesscontrol.asgi.application"
TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "DIRS": [BASE_DIR / "templates"],
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
                "accesscontrol.gate.page_context",
            ],
        },
    }
]
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

# -- People who sign in -----------------------------------------------------------------------------------------

AUTHENTICATION_BACKENDS = [
    "axes.backends.AxesStandaloneBackend",
    "django.contrib.auth.backends.ModelBackend",
]
PASSWORD_HASHERS = ["django.contrib.auth.hashers.Argon2PasswordHasher"]
AUTH_PASSWORD_VALIDATORS = [
    {"NAME": "django.contrib.auth.password_validation.UserAttributeSimilarityValidator"},
    {"NAME": "django.contrib.auth.password_validation.MinimumLengthValidator", "OPTIONS": {"min_length": 12}},
    {"NAME": "django.contrib.auth.password_validation.CommonPasswordValidator"},
    {"NAME": "django.contrib.auth.password_validation.NumericPasswordValidator"},
]
LOGIN_URL = "sign_in"
LOGIN_REDIRECT_URL = "/"
LOGOUT_REDIRECT_URL = "sign_in"
OTP_TOTP_ISSUER = "Lintel"
AXES_FAILURE_LIMIT = 5
AXES_COOLOFF_TIME = timedelta(minutes=15)
AXES_RESET_ON_SUCCESS = True
# Name and address together: a stranger elsewhere cannot lock the administrator out by guessing badly.
AXES_LOCKOUT_PARAMETERS = [["username", "ip_address"]]
AXES_LOCKOUT_CALLABLE = "accesscontrol.views.account.locked_out"
# Failures are counted under a keyed hash of the name, and who signed in is in the audit log alone.
AXES_USERNAME_CALLABLE = "accesscontrol.views.account.name_to_count"
AXES_DISABLE_ACCESS_LOG = True
AXES_VERBOSE = False

SESSION_COOKIE_NAME = "lintel_session"
SESSION_COOKIE_AGE = 12 * 3600
SESSION_COOKIE_HTTPONLY = True
SESSION_COOKIE_SAMESITE = "Lax"
SESSION_COOKIE_SECURE = PRODUCTION
SESSION_ENGINE = (
    "django.contrib.sessions.backends.cached_db" if PRODUCTION else "django.contrib.sessions.backends.db"
)
CSRF_COOKIE_NAME = "lintel_csrf"
CSRF_COOKIE_SECURE = PRODUCTION
CSRF_COOKIE_SAMESITE = "Lax"
CSRF_TRUSTED_ORIGINS = [LINTEL_PUBLIC_URL] if LINTEL_PUBLIC_URL else []

# -- Headers ----------------------------------------------------------------------------------------------------

SECURE_CONTENT_TYPE_NOSNIFF = True
SECURE_REFERRER_POLICY = "same-origin"
SECURE_CROSS_ORIGIN_OPENER_POLICY = "same-origin"
X_FRAME_OPTIONS = "DENY"
if PRODUCTION:
    SECURE_PROXY_SSL_HEADER = ("HTTP_X_FORWARDED_PROTO", "https")
    SECURE_SSL_REDIRECT = env.flag("LINTEL_TLS_REDIRECT", True)
    SECURE_REDIRECT_EXEMPT = [r"^healthz$", r"^readyz$", r"^metrics$"]
    SECURE_HSTS_SECONDS = 365 * 24 * 3600
#: No capture is larger than 300 KB; nothing larger is read into memory, whoever sends it. Imports are files.
DATA_UPLOAD_MAX_MEMORY_SIZE = 512 * 1024
FILE_UPLOAD_MAX_MEMORY_SIZE = 512 * 1024

# -- Static files, language, time -------------------------------------------------------------------------------

STATIC_URL = "/static/"
#: The networks and the runtime that find a face in a browser: set-up fetched and verified them, we serve them.
_networks = models_folder(env.values).resolve()
STATICFILES_DIRS = [("enrollment/networks", _networks)] if _networks.is_dir() else []
# Served from the packages' own folders in both modes, read once at start: nothing to collect, nothing to forget.
WHITENOISE_USE_FINDERS = True
WHITENOISE_AUTOREFRESH = DEBUG
MEDIA_ROOT = LINTEL_DATA_DIR / "media"
LANGUAGE_CODE = "en"
#: A folder with languages of one's own, one file each, besides those in enrollment/languages: see docs/languages.md.
LINTEL_LANGUAGES_DIR = env.text("LINTEL_LANGUAGES_DIR")
USE_I18N = True
USE_TZ = True
TIME_ZONE = "UTC"

# -- Machine interface ------------------------------------------------------------------------------------------

REST_FRAMEWORK = {
    # Deny by default: a class that names neither who it is for nor how they prove it answers nobody.
    "DEFAULT_AUTHENTICATION_CLASSES": [],
    "DEFAULT_PERMISSION_CLASSES": ["rest_framework.permissions.IsAuthenticated"],
    "DEFAULT_RENDERER_CLASSES": ["rest_framework.renderers.JSONRenderer"],
    "DEFAULT_PARSER_CLASSES": ["accesscontrol.parsers.JSONParser"],
    "DEFAULT_SCHEMA_CLASS": "accesscontrol.described.Operation",
    "EXCEPTION_HANDLER": "accesscontrol.problems.problem_response",
    "UNAUTHENTICATED_USER": None,
    "NUM_PROXIES": LINTEL_PROXY_HOPS,
}
SPECTACULAR_SETTINGS = {
    "TITLE": "Lintel",
    "DESCRIPTION": "Face access control that never receives a face: terminals send perturbed frequency features.",
    "VERSION": "1",
    "OAS_VERSION": "3.1.1",
    "SERVE_INCLUDE_SCHEMA": False,
    "SERVE_PUBLIC": True,
    "SERVE_PERMISSIONS": ["rest_framework.permissions.AllowAny"],
    "SERVE_AUTHENTICATION": [],
    "SCHEMA_PATH_PREFIX": r"/api/v1",
    "ENUM_NAME_OVERRIDES": {
        "AttemptState": "accesscontrol.models.AccessAttempt.State",
        "EnrollmentState": "enrollment.models.Enrollment.State",
        "TerminalState": "accesscontrol.models.Terminal.State",
    },
    "SWAGGER_UI_DIST": "SIDECAR",
    "SWAGGER_UI_FAVICON_HREF": "SIDECAR",
    "REDOC_DIST": "SIDECAR",
}

# -- Logs -------------------------------------------------------------------------------------------------------

LINTEL_LOG_LEVEL = env.choice("LINTEL_LOG_LEVEL", "INFO", ("DEBUG", "INFO", "WARNING", "ERROR"))
_shared_processors: list[structlog.typing.Processor] = [
    structlog.contextvars.merge_contextvars,
    structlog.stdlib.add_logger_name,
    structlog.stdlib.add_log_level,
    structlog.processors.TimeStamper(fmt="iso", utc=True),
]
structlog.configure(
    processors=[
        structlog.stdlib.filter_by_level,
        *_shared_processors,
        structlog.stdlib.PositionalArgumentsFormatter(),
        structlog.processors.StackInfoRenderer(),
        structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
    ],
    logger_factory=structlog.stdlib.LoggerFactory(),
    cache_logger_on_first_use=False,
)
_renderers: list[structlog.typing.Processor] = (
    [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
    if PRODUCTION
    # Plain tracebacks: rich ones print local variables, and a local variable here may be a capture.
    else [structlog.dev.ConsoleRenderer(colors=False, exception_formatter=structlog.dev.plain_traceback)]
)
LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {
        "lintel": {
            "()": structlog.stdlib.ProcessorFormatter,
            "foreign_pre_chain": _shared_processors,
            "processors": [structlog.stdlib.ProcessorFormatter.remove_processors_meta, *_renderers],
        }
    },
    "handlers": {"console": {"class": "logging.StreamHandler", "formatter": "lintel"}},
    "root": {"handlers": ["console"], "level": LINTEL_LOG_LEVEL},
    "loggers": {
        "django": {"handlers": [], "level": "WARNING", "propagate": True},
        "django.server": {"handlers": [], "level": "WARNING", "propagate": True},
        "axes": {"level": "WARNING"},
        # Task received, task succeeded: every attempt is a row and an audit entry; two lines more cost a door time.
        "celery.worker.strategy": {"level": "WARNING"},
        "celery.app.trace": {"level": "WARNING"},
        "httpx": {"level": "WARNING"},
        "faiss": {"level": "WARNING"},
    },
}

try:
    env.refuse_problems()
except EnvironmentProblems as problems:
    raise ImproperlyConfigured(str(problems)) from None
del env
