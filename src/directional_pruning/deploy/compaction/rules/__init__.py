"""One rule for each kind of operation; ``dispatch.py`` has the table, ``base.py`` says what a rule must do."""
