import django.db.models.deletion
import django.utils.timezone
import uuid
from django.db import migrations, models


class Migration(migrations.Migration):

    initial = True

    dependencies = [
    ]

    operations = [
        migrations.CreateModel(
            name='Enrollment',
            fields=[
                ('id', models.UUIDField(default=uuid.uuid4, editable=False, primary_key=True, serialize=False)),
                ('terminal_id', models.UUIDField(blank=True, db_index=True, null=True)),
                ('state', models.CharField(choices=[('open', 'Taking captures'), ('duplicate_found', 'Waiting for a decision'), ('completed', 'Completed'), ('cancelled', 'Cancelled'), ('expired', 'Expired'), ('refused', 'Refused')], default='open', max_length=20)),
                ('captures_wanted', models.PositiveSmallIntegerField(default=3)),
                ('captures_accepted', models.PositiveSmallIntegerField(default=0)),
                ('captures_received', models.PositiveSmallIntegerField(default=0)),
                ('disagreements', models.PositiveSmallIntegerField(default=0, help_text='Captures in a row that did not look like the accepted ones.')),
                ('last_reason', models.CharField(blank=True, max_length=50)),
                ('duplicate_score', models.FloatField(blank=True, null=True)),
                ('started_by', models.CharField(max_length=200)),
                ('started_at', models.DateTimeField()),
                ('expires_at', models.DateTimeField()),
                ('finished_at', models.DateTimeField(blank=True, null=True)),
            ],
            options={
                'ordering': ['-started_at'],
            },
        ),
        migrations.CreateModel(
            name='ErasureCertificate',
            fields=[
                ('person_id', models.UUIDField(primary_key=True, serialize=False)),
                ('erased_at', models.DateTimeField()),
                ('certificate', models.JSONField()),
            ],
            options={
                'ordering': ['-erased_at'],
            },
        ),
        migrations.CreateModel(
            name='GalleryChange',
            fields=[
                ('sequence', models.BigAutoField(primary_key=True, serialize=False)),
                ('kind', models.CharField(choices=[('add', 'Template added'), ('remove', 'Template removed'), ('reload', 'Load everything again')], max_length=10)),
                ('template_id', models.BigIntegerField(blank=True, null=True)),
                ('person_id', models.UUIDField(blank=True, null=True)),
                ('at', models.DateTimeField()),
            ],
            options={
                'ordering': ['sequence'],
                'constraints': [models.CheckConstraint(condition=models.Q(('kind', 'reload'), models.Q(('person_id__isnull', False), ('template_id__isnull', False)), _connector='OR'), name='gallery_change_names_its_template')],
            },
        ),
        migrations.CreateModel(
            name='PendingCapture',
            fields=[
                ('payload_key', models.CharField(max_length=100, primary_key=True, serialize=False)),
                ('quality', models.FloatField(blank=True, null=True)),
                ('received_at', models.DateTimeField()),
                ('enrollment', models.ForeignKey(on_delete=django.db.models.deletion.CASCADE, related_name='pending_captures', to='enrollment.enrollment')),
            ],
        ),
        migrations.CreateModel(
            name='Person',
            fields=[
                ('id', models.UUIDField(default=uuid.uuid4, editable=False, primary_key=True, serialize=False)),
                ('full_name', models.CharField(max_length=200)),
                ('external_id', models.CharField(blank=True, help_text='The number this person has in another system.', max_length=100, null=True, unique=True)),
                ('email', models.EmailField(blank=True, max_length=254)),
                ('kind', models.CharField(choices=[('employee', 'Employee'), ('visitor', 'Visitor'), ('contractor', 'Contractor')], default='employee', max_length=20)),
                ('is_active', models.BooleanField(default=True, help_text='An inactive person is recognised and refused.')),
                ('valid_from', models.DateTimeField(default=django.utils.timezone.now)),
                ('valid_until', models.DateTimeField(blank=True, help_text='Empty means without end.', null=True)),
                ('created_at', models.DateTimeField(default=django.utils.timezone.now, editable=False)),
            ],
            options={
                'verbose_name_plural': 'people',
                'ordering': ['full_name', 'id'],
                'constraints': [models.CheckConstraint(condition=models.Q(('full_name', ''), _negated=True), name='person_has_a_name'), models.CheckConstraint(condition=models.Q(('external_id', ''), _negated=True), name='person_external_id_is_null_or_something'), models.CheckConstraint(condition=models.Q(('valid_until', None), ('valid_until__gt', models.F('valid_from')), _connector='OR'), name='person_is_valid_for_a_while')],
            },
        ),
        migrations.AddField(
            model_name='enrollment',
            name='duplicate_of',
            field=models.ForeignKey(blank=True, null=True, on_delete=django.db.models.deletion.SET_NULL, related_name='duplicates_found', to='enrollment.person'),
        ),
        migrations.AddField(
            model_name='enrollment',
            name='person',
            field=models.ForeignKey(on_delete=django.db.models.deletion.CASCADE, related_name='enrollments', to='enrollment.person'),
        ),
        migrations.CreateModel(
            name='DataKey',
            fields=[
                ('id', models.UUIDField(default=uuid.uuid4, editable=False, primary_key=True, serialize=False)),
                ('wrapped', models.BinaryField()),
                ('kek_id', models.CharField(db_index=True, max_length=100)),
                ('created_at', models.DateTimeField(default=django.utils.timezone.now, editable=False)),
                ('person', models.OneToOneField(on_delete=django.db.models.deletion.CASCADE, related_name='data_key', to='enrollment.person')),
            ],
        ),
        migrations.CreateModel(
            name='Consent',
            fields=[
                ('id', models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name='ID')),
                ('text', models.TextField()),
                ('version', models.CharField(max_length=50)),
                ('language', models.CharField(default='en', max_length=20)),
                ('method', models.CharField(choices=[('signed', 'Signed on paper'), ('online', 'Given online'), ('spoken', 'Spoken before a witness')], max_length=20)),
                ('given_at', models.DateTimeField()),
                ('recorded_by', models.CharField(max_length=200)),
                ('withdrawn_at', models.DateTimeField(blank=True, null=True)),
                ('person', models.ForeignKey(on_delete=django.db.models.deletion.CASCADE, related_name='consents', to='enrollment.person')),
            ],
            options={
                'ordering': ['-given_at', '-id'],
            },
        ),
        migrations.CreateModel(
            name='ProtectedTemplate',
            fields=[
                ('id', models.BigAutoField(primary_key=True, serialize=False)),
                ('kind', models.CharField(choices=[('capture', 'One capture'), ('fused', 'Mean of the captures')], default='capture', max_length=10)),
                ('sealed', models.BinaryField()),
                ('active', models.BooleanField(default=False, help_text='In the gallery.')),
                ('model', models.CharField(max_length=200)),
                ('profile_hash', models.CharField(max_length=64)),
                ('gallery_key_id', models.CharField(max_length=100)),
                ('quality', models.FloatField(blank=True, null=True)),
                ('created_at', models.DateTimeField()),
                ('enrollment', models.ForeignKey(on_delete=django.db.models.deletion.PROTECT, related_name='templates', to='enrollment.enrollment')),
                ('person', models.ForeignKey(on_delete=django.db.models.deletion.CASCADE, related_name='templates', to='enrollment.person')),
            ],
            options={
                'ordering': ['id'],
            },
        ),
        migrations.AddConstraint(
            model_name='enrollment',
            constraint=models.UniqueConstraint(condition=models.Q(('state__in', ['open', 'duplicate_found'])), fields=('person',), name='enrollment_unfinished_is_one_per_person'),
        ),
        migrations.AddConstraint(
            model_name='enrollment',
            constraint=models.UniqueConstraint(condition=models.Q(('state', 'open')), fields=('terminal_id',), name='enrollment_open_is_one_per_terminal'),
        ),
        migrations.AddConstraint(
            model_name='enrollment',
            constraint=models.CheckConstraint(condition=models.Q(('captures_wanted__range', (1, 10))), name='enrollment_wants_1_to_10_captures'),
        ),
        migrations.AddConstraint(
            model_name='enrollment',
            constraint=models.CheckConstraint(condition=models.Q(('captures_accepted__lte', models.F('captures_wanted'))), name='enrollment_accepts_what_it_wants'),
        ),
        migrations.AddConstraint(
            model_name='enrollment',
            constraint=models.CheckConstraint(condition=models.Q(models.Q(('finished_at', None), ('state__in', ['open', 'duplicate_found'])), models.Q(models.Q(('state__in', ['open', 'duplicate_found']), _negated=True), ('finished_at__isnull', False)), _connector='OR'), name='enrollment_is_finished_or_not'),
        ),
        migrations.AddConstraint(
            model_name='consent',
            constraint=models.CheckConstraint(condition=models.Q(models.Q(('text', ''), _negated=True), models.Q(('version', ''), _negated=True)), name='consent_says_something'),
        ),
        migrations.AddConstraint(
            model_name='consent',
            constraint=models.UniqueConstraint(condition=models.Q(('withdrawn_at', None)), fields=('person',), name='consent_in_force_is_one_per_person'),
        ),
        migrations.AddIndex(
            model_name='protectedtemplate',
            index=models.Index(condition=models.Q(('active', True)), fields=['model'], name='template_in_gallery'),
        ),
        migrations.AddConstraint(
            model_name='protectedtemplate',
            constraint=models.UniqueConstraint(condition=models.Q(('kind', 'fused')), fields=('enrollment',), name='template_fused_is_one_per_enrollment'),
        ),
    ]
