"""Pages of enrollment. Profile and start of an enrollment also need doors, so accesscontrol has them."""

from django.urls import path

from enrollment import invitation_views, views

urlpatterns = [
    path("people/", views.people, name="people"),
    path("people/new/", views.person_create, name="person_create"),
    path("people/import/", invitation_views.people_import, name="people_import"),
    path("people/import/example/", invitation_views.people_import_example, name="people_import_example"),
    path("people/<uuid:person_id>/invite/", invitation_views.invitation_create, name="invitation_create"),
    path("invitations/", invitation_views.invitation_list, name="invitations"),
    path(
        "invitations/<uuid:invitation_id>/revoke/",
        invitation_views.invitation_revoke,
        name="invitation_revoke",
    ),
    # The guest's own: open to everybody, see invitation_views.
    path("invitation/", invitation_views.guest, name="invitation"),
    path("invitation/open/", invitation_views.guest_open, name="invitation_open"),
    path("invitation/consent/", invitation_views.guest_consent, name="invitation_consent"),
    path("invitation/progress/", invitation_views.guest_progress, name="invitation_progress"),
    path("people/<uuid:person_id>/edit/", views.person_edit, name="person_edit"),
    path("people/<uuid:person_id>/consent/", views.consent_create, name="consent_create"),
    path("people/<uuid:person_id>/consent/withdraw/", views.consent_withdraw, name="consent_withdraw"),
    path("people/<uuid:person_id>/pin/", views.pin_set, name="pin_set"),
    path("people/<uuid:person_id>/pin/clear/", views.pin_clear, name="pin_clear"),
    path("people/<uuid:person_id>/cards/", views.card_add, name="card_add"),
    path("people/cards/<uuid:card_id>/block/", views.card_block, name="card_block"),
    path("people/cards/<uuid:card_id>/unblock/", views.card_unblock, name="card_unblock"),
    path("people/cards/<uuid:card_id>/remove/", views.card_remove, name="card_remove"),
    path("people/<uuid:person_id>/erase/", views.person_erase, name="person_erase"),
    path("people/erased/<uuid:person_id>/", views.erasure_certificate, name="erasure_certificate"),
    path("people/enrollments/<uuid:enrollment_id>/", views.enrollment, name="enrollment"),
    path(
        "people/enrollments/<uuid:enrollment_id>/progress/",
        views.enrollment_progress,
        name="enrollment_progress",
    ),
    path(
        "people/enrollments/<uuid:enrollment_id>/retake/", views.enrollment_retake, name="enrollment_retake"
    ),
    path(
        "people/enrollments/<uuid:enrollment_id>/same-person/",
        views.enrollment_attach,
        name="enrollment_attach",
    ),
    path(
        "people/enrollments/<uuid:enrollment_id>/complete/",
        views.enrollment_complete,
        name="enrollment_complete",
    ),
    path(
        "people/enrollments/<uuid:enrollment_id>/cancel/", views.enrollment_cancel, name="enrollment_cancel"
    ),
]
