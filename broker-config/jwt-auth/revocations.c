#include "revocations.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "identity.h"

#define MAX_DIGITS 15
#define MAX_LINE_BYTES (MAX_DIGITS + 1 + MAX_NAME_LENGTH + 1)
#define MAX_FILE_BYTES (MAX_REVOCATIONS * MAX_LINE_BYTES)

static struct revocation *find(const struct revocations *revocations, const char *name, size_t length)
{
	for (size_t i = 0; i < revocations->count; i++) {
		if (strncmp(revocations->items[i].name, name, length) == 0 && revocations->items[i].name[length] == '\0') {
			return &revocations->items[i];
		}
	}
	return NULL;
}

bool revocation_is_over(time_t until, time_t now)
{
	return now - until > REVOCATION_SECONDS;
}

/* A time ahead of the clock was written while a clock was wrong: this one is behind now, or was ahead then. If it is
 * behind, the time counts once the clock is right. Until then the revocation counts as of when it was noted: in full, it
 * would lock the monitor out, however new its token. */
static time_t in_force_until(const struct revocation *one, time_t now)
{
	return one->until > now + REVOCATION_AHEAD_SECONDS ? one->noted : one->until;
}

static void forget_old(struct revocations *revocations, time_t now)
{
	size_t kept = 0;

	for (size_t i = 0; i < revocations->count; i++) {
		if (revocation_is_over(in_force_until(&revocations->items[i], now), now)) {
			free(revocations->items[i].name);
		} else {
			revocations->items[kept++] = revocations->items[i];
		}
	}
	revocations->count = kept;
}

static bool make_room(struct revocations *revocations)
{
	size_t size = revocations->size == 0 ? 16 : revocations->size * 2;
	struct revocation *items;

	if (revocations->count < revocations->size) {
		return true;
	}
	items = realloc(revocations->items, size * sizeof *items);
	if (items == NULL) {
		return false;
	}
	revocations->items = items;
	revocations->size = size;
	return true;
}

/* Returns false if memory is short. */
static bool set(struct revocations *revocations, const char *name, time_t until, time_t now)
{
	struct revocation *found = find(revocations, name, strlen(name));

	if (found == NULL) {
		char *copy = strdup(name);

		if (copy == NULL || !make_room(revocations)) {
			free(copy);
			return false;
		}
		revocations->items[revocations->count++] = (struct revocation){copy, until, now};
	} else if (in_force_until(found, now) < until) {
		found->until = until;
		found->noted = now;
	}
	return true;
}

const char *revocations_add(struct revocations *revocations, const char *name, time_t until, time_t now)
{
	if (!identity_name_is_valid(name)) {
		return "the name is not valid";
	}
	if (until > now + REVOCATION_AHEAD_SECONDS) {
		return "its time is in the future: compare the clocks of broker and sender";
	}
	forget_old(revocations, now);
	if (revocations->count >= MAX_REVOCATIONS && find(revocations, name, strlen(name)) == NULL) {
		return "too many revocations are in force";
	}
	return set(revocations, name, until, now) ? NULL : "out of memory";
}

bool revocations_know(const struct revocations *revocations, const char *name, time_t until, time_t now)
{
	const struct revocation *found = find(revocations, name, strlen(name));

	return found != NULL && in_force_until(found, now) >= until;
}

bool revocations_refuse(const struct revocations *revocations, const char *name, time_t issued, time_t now)
{
	return revocations_know(revocations, name, issued, now);
}

bool revocations_concern(const struct revocations *revocations, const char *client_id, time_t now)
{
	const struct revocation *found = find(revocations, client_id, strcspn(client_id, "/"));

	return found != NULL && !revocation_is_over(in_force_until(found, now), now);
}

void revocations_free(struct revocations *revocations)
{
	for (size_t i = 0; i < revocations->count; i++) {
		free(revocations->items[i].name);
	}
	free(revocations->items);
	*revocations = (struct revocations){.count = 0};
}

/* --- the file: a line "TIME NAME" for each ---------------------------------------------------------------- */

/* Whether a time cannot be one that was written to the file at `written`: those were not ahead of the clock then, and
 * those that were over had been removed. A clock that is behind now proves nothing. */
static bool is_impossible(time_t until, time_t written, time_t now)
{
	time_t latest = (now > written ? now : written) + REVOCATION_AHEAD_SECONDS;

	return until > latest || until < written - REVOCATION_SECONDS - REVOCATION_AHEAD_SECONDS;
}

static bool read_line(const char *line, struct revocations *out, time_t written, time_t now,
                      struct revocations_damage *damage)
{
	size_t digits = strspn(line, "0123456789");
	const char *name = line + digits + 1;

	if (digits == 0 || digits > MAX_DIGITS || line[digits] != ' ' || !identity_name_is_valid(name)) {
		return false;
	}
	if (out->count >= MAX_REVOCATIONS && find(out, name, strlen(name)) == NULL) {
		return false;
	}
	time_t until = (time_t)strtoll(line, NULL, 10);

	/* Some revocation of this monitor was there. When is unknown, so it must get a new token. */
	if (is_impossible(until, written, now)) {
		damage->impossible++;
		until = now;
	}
	damage->ahead += until > now + REVOCATION_AHEAD_SECONDS;
	return set(out, name, until, now);
}

struct revocations_damage revocations_parse(struct revocations *revocations, char *text, time_t written, time_t now)
{
	struct revocations_damage damage = {.invalid = 0};
	char *line;

	while ((line = strsep(&text, "\n")) != NULL) {
		damage.invalid += *line != '\0' && !read_line(line, revocations, written, now, &damage);
	}
	return damage;
}

/* Returns the file's text, and when it was written, or NULL with errno set. A file that is too long is cut. */
static char *read_text(const char *path, time_t *written)
{
	char *text = malloc(MAX_FILE_BYTES + 1);
	struct stat status;
	size_t count = 0;
	ssize_t got = -1;
	int file = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);

	if (text != NULL && file >= 0 && fstat(file, &status) == 0) {
		*written = status.st_mtime;
		while (count < MAX_FILE_BYTES && (got = read(file, text + count, MAX_FILE_BYTES - count)) > 0) {
			count += (size_t)got;
		}
	}
	int saved = text == NULL ? ENOMEM : errno;

	if (file >= 0) {
		close(file);
	}
	if (got < 0) {
		free(text);
		errno = saved;
		return NULL;
	}
	text[count] = '\0';
	/* A NUL is damage, too: no name contains this other character. */
	for (size_t i = 0; i < count; i++) {
		if (text[i] == '\0') {
			text[i] = '\1';
		}
	}
	return text;
}

static void describe(const struct revocations_damage *damage, const char *path, struct load_error *error)
{
	if (damage->invalid + damage->impossible > 0) {
		snprintf(error->text, sizeof error->text,
		         "revocations file %.200s: is damaged: %zu lines are ignored, %zu with an impossible time revoke all "
		         "tokens until now",
		         path, damage->invalid, damage->impossible);
	} else {
		snprintf(error->text, sizeof error->text,
		         "revocations file %.200s: %zu lines are later than this machine's clock, which is wrong, or was wrong "
		         "when they were written",
		         path, damage->ahead);
	}
}

bool revocations_load(struct revocations *revocations, const char *path, time_t now, struct load_error *error)
{
	time_t written = 0;
	char *text = read_text(path, &written);
	struct revocations_damage damage;

	if (text == NULL) {
		if (errno == ENOENT) {
			return true;
		}
		snprintf(error->text, sizeof error->text, "revocations file %.200s: cannot be read: %.64s", path,
		         strerror(errno));
		return false;
	}
	damage = revocations_parse(revocations, text, written, now);
	free(text);
	if (damage.invalid + damage.impossible + damage.ahead == 0) {
		return true;
	}
	describe(&damage, path, error);
	return false;
}

static bool write_lines(const struct revocations *revocations, int file)
{
	for (size_t i = 0; i < revocations->count; i++) {
		const struct revocation *one = &revocations->items[i];

		if (dprintf(file, "%lld %s\n", (long long)one->until, one->name) < 0) {
			return false;
		}
	}
	return fsync(file) == 0;
}

/* Without this, a power failure might undo the renaming. */
static bool sync_directory_of(const char *path)
{
	const char *slash = strrchr(path, '/');
	char *directory = slash == NULL ? strdup(".") : strndup(path, (size_t)(slash - path) + 1);
	int file = directory == NULL ? -1 : open(directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	bool good = file >= 0 && fsync(file) == 0;

	if (file >= 0) {
		close(file);
	}
	free(directory);
	return good;
}

static bool replace(const struct revocations *revocations, const char *path, const char *new_path)
{
	int file = open(new_path, O_WRONLY | O_CREAT | O_TRUNC | O_NOFOLLOW | O_CLOEXEC, 0600);
	bool good = file >= 0 && write_lines(revocations, file);

	if (file >= 0 && close(file) != 0) {
		good = false;
	}
	return good && rename(new_path, path) == 0 && sync_directory_of(path);
}

bool revocations_save(const struct revocations *revocations, const char *path, struct load_error *error)
{
	char *new_path = NULL;
	bool good = asprintf(&new_path, "%s.new", path) >= 0 && replace(revocations, path, new_path);

	if (!good) {
		snprintf(error->text, sizeof error->text, "revocations file %.200s: cannot be written: %.64s", path,
		         strerror(errno));
	}
	free(new_path);
	return good;
}
