"""Pages of people stop reading when they are full: by name from an index, and who is enrolled from another."""

from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("enrollment", "0003_pins_and_cards"),
    ]

    operations = [
        migrations.AddIndex(
            model_name="person",
            index=models.Index(fields=["full_name", "id"], name="person_by_name"),
        ),
        migrations.AddIndex(
            model_name="protectedtemplate",
            index=models.Index(
                condition=models.Q(("active", True)), fields=["person"], name="template_of_person"
            ),
        ),
    ]
