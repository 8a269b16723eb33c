-- What a study keeps. A participant and all that is theirs are deleted together.
CREATE TABLE IF NOT EXISTS meta (key TEXT PRIMARY KEY, value ANY NOT NULL) STRICT;

CREATE TABLE IF NOT EXISTS participants (
  id INTEGER PRIMARY KEY AUTOINCREMENT,  -- the number of the invitation, never given twice
  pseudonym TEXT NOT NULL UNIQUE,        -- in exports; it says nothing
  token BLOB NOT NULL UNIQUE,            -- SHA-256 of what is in the link
  invited_at REAL NOT NULL,              -- all times: seconds since 1970
  revoked_at REAL,
  consented_at REAL,
  consent TEXT,                          -- SHA-256 of the text that they agreed to
  ended_at REAL,
  outcome TEXT CHECK (outcome IN ('finished', 'too few labels')),
  deleted_at REAL                        -- then nothing else is left of them
) STRICT;

CREATE TABLE IF NOT EXISTS sessions (
  token BLOB PRIMARY KEY,                -- SHA-256 of the cookie
  participant INTEGER REFERENCES participants ON DELETE CASCADE,  -- NULL: the researcher
  expires_at REAL NOT NULL
) STRICT;
CREATE INDEX IF NOT EXISTS sessions_of ON sessions (participant);

CREATE TABLE IF NOT EXISTS items (
  id INTEGER PRIMARY KEY,
  participant INTEGER NOT NULL REFERENCES participants ON DELETE CASCADE,
  phase TEXT NOT NULL CHECK (phase IN ('label', 'compare', 'identical')),
  position INTEGER NOT NULL,             -- from 0, in the order that they are shown
  prompt TEXT NOT NULL,
  first TEXT NOT NULL,
  second TEXT NOT NULL,
  pair INTEGER,                          -- label: its place in the pool; NULL for a check
  arm TEXT,                              -- compare: whom the personalized one is compared with
  key TEXT CHECK (key IN ('first', 'second')),  -- a check: what is right; else: which is ours
  UNIQUE (participant, phase, position),
  UNIQUE (participant, phase, pair),
  UNIQUE (participant, phase, arm, prompt)
) STRICT;

CREATE TABLE IF NOT EXISTS answers (
  item INTEGER PRIMARY KEY REFERENCES items ON DELETE CASCADE,
  choice TEXT NOT NULL CHECK (choice IN ('first', 'second', 'tie', 'skip')),
  reason TEXT NOT NULL,
  seconds REAL NOT NULL,                 -- since the page with this form was asked for
  answered_at REAL NOT NULL,
  revision INTEGER NOT NULL              -- 1, and one more with every change of mind
) STRICT;

CREATE TABLE IF NOT EXISTS former_answers (
  item INTEGER NOT NULL REFERENCES items ON DELETE CASCADE,
  choice TEXT NOT NULL,
  reason TEXT NOT NULL,
  seconds REAL NOT NULL,
  answered_at REAL NOT NULL,
  revision INTEGER NOT NULL,
  PRIMARY KEY (item, revision)
) STRICT;

CREATE TABLE IF NOT EXISTS jobs (
  id INTEGER PRIMARY KEY AUTOINCREMENT,
  participant INTEGER NOT NULL REFERENCES participants ON DELETE CASCADE,
  kind TEXT NOT NULL CHECK (kind IN ('choose', 'respond')),
  name TEXT NOT NULL,                    -- respond: the arm; choose: the position of the label
  state TEXT NOT NULL CHECK (state IN ('waiting', 'done', 'failed')),
  attempts INTEGER NOT NULL DEFAULT 0,
  error TEXT,
  result TEXT,                           -- JSON
  UNIQUE (participant, kind, name)
) STRICT;
CREATE INDEX IF NOT EXISTS jobs_waiting ON jobs (state, id);

CREATE TABLE IF NOT EXISTS events (       -- what a reader of the results must know
  id INTEGER PRIMARY KEY AUTOINCREMENT,
  at REAL NOT NULL,
  what TEXT NOT NULL,
  detail TEXT NOT NULL
) STRICT;
