"""Every address of the API, with who may call it. Views of other apps answer nobody until a route here says
who may."""

from __future__ import annotations

from django.urls import path, re_path

from accesscontrol import captures
from accesscontrol.api import integrators, terminals
from accesscontrol.api.base import INTEGRATOR_ONLY, TERMINAL_ONLY, signed
from accesscontrol.problems import not_found
from audit import api as audit
from enrollment import api as enrollment

urlpatterns = [
    # Terminals, by signature; answers are signed.
    path("terminals/pair", terminals.PairView.as_view(), name="api_pair"),
    path("terminals/me", signed(terminals.TerminalMeView.as_view()), name="api_terminal_me"),
    path("terminals/me/key", signed(terminals.TerminalKeyView.as_view()), name="api_terminal_key"),
    path(
        "terminals/me/enrollment",
        signed(enrollment.TerminalEnrollmentView.as_view(**TERMINAL_ONLY)),
        name="api_terminal_enrollment",
    ),
    path(
        "enrollments/<uuid:enrollment_id>/captures",
        signed(
            enrollment.TerminalCapturesView.as_view(check_capture=captures.check_capture, **TERMINAL_ONLY)
        ),
        name="api_enrollment_captures",
    ),
    path("profiles/<str:profile_hash>", signed(terminals.ProfileView.as_view()), name="api_profile"),
    path("attempts", signed(terminals.AttemptsView.as_view()), name="api_attempts"),
    path("attempts/proof", signed(terminals.ProofView.as_view()), name="api_proof"),
    path("attempts/<uuid:attempt_id>", signed(terminals.AttemptView.as_view()), name="api_attempt"),
    # Integrators, by token.
    path("sites", integrators.SitesView.as_view(), name="api_sites"),
    path("doors", integrators.DoorsView.as_view(), name="api_doors"),
    path("doors/<uuid:door_id>", integrators.DoorView.as_view(), name="api_door"),
    path("terminals", integrators.TerminalsView.as_view(), name="api_terminals"),
    path("schedules", integrators.SchedulesView.as_view(), name="api_schedules"),
    path("groups", integrators.GroupsView.as_view(), name="api_groups"),
    path(
        "groups/<int:group_id>/members/<uuid:person_id>",
        integrators.GroupMemberView.as_view(),
        name="api_group_member",
    ),
    path("rules", integrators.RulesView.as_view(), name="api_rules"),
    path("rules/<int:rule_id>", integrators.RuleView.as_view(), name="api_rule"),
    path("people", enrollment.PeopleView.as_view(**INTEGRATOR_ONLY), name="api_people"),
    path("people/<uuid:person_id>", enrollment.PersonView.as_view(**INTEGRATOR_ONLY), name="api_person"),
    path(
        "people/<uuid:person_id>/consents",
        enrollment.PersonConsentsView.as_view(**INTEGRATOR_ONLY),
        name="api_person_consents",
    ),
    path(
        "people/<uuid:person_id>/cards",
        enrollment.PersonCardsView.as_view(**INTEGRATOR_ONLY),
        name="api_person_cards",
    ),
    path(
        "people/<uuid:person_id>/enrollments",
        enrollment.PersonEnrollmentsView.as_view(**INTEGRATOR_ONLY),
        name="api_person_enrollments",
    ),
    path(
        "people/<uuid:person_id>/erase",
        enrollment.PersonEraseView.as_view(**INTEGRATOR_ONLY),
        name="api_person_erase",
    ),
    path(
        "enrollments/<uuid:enrollment_id>",
        enrollment.EnrollmentDetailView.as_view(**INTEGRATOR_ONLY),
        name="api_enrollment",
    ),
    path(
        "enrollments/<uuid:enrollment_id>/complete",
        enrollment.EnrollmentCompleteView.as_view(**INTEGRATOR_ONLY),
        name="api_enrollment_complete",
    ),
    path(
        "enrollments/<uuid:enrollment_id>/cancel",
        enrollment.EnrollmentCancelView.as_view(**INTEGRATOR_ONLY),
        name="api_enrollment_cancel",
    ),
    path("audit/entries", audit.EntriesView.as_view(**INTEGRATOR_ONLY), name="api_audit_entries"),
    path("audit/proofs", audit.ProofsView.as_view(**INTEGRATOR_ONLY), name="api_audit_proofs"),
    re_path("^.*$", not_found),
]
