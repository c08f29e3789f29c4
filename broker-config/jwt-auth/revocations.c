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

static void forget_old(struct revocations *revocations, time_t now)
{
	size_t kept = 0;

	for (size_t i = 0; i < revocations->count; i++) {
		if (revocation_is_over(revocations->items[i].until, now)) {
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
static bool set(struct revocations *revocations, const char *name, time_t until)
{
	struct revocation *found = find(revocations, name, strlen(name));

	if (found == NULL) {
		char *copy = strdup(name);

		if (copy == NULL || !make_room(revocations)) {
			free(copy);
			return false;
		}
		revocations->items[revocations->count++] = (struct revocation){copy, until};
	} else if (found->until < until) {
		found->until = until;
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
	return set(revocations, name, until) ? NULL : "out of memory";
}

bool revocations_know(const struct revocations *revocations, const char *name, time_t until)
{
	const struct revocation *found = find(revocations, name, strlen(name));

	return found != NULL && found->until >= until;
}

bool revocations_refuse(const struct revocations *revocations, const char *name, time_t issued)
{
	return revocations_know(revocations, name, issued);
}

bool revocations_concern(const struct revocations *revocations, const char *client_id, time_t now)
{
	const struct revocation *found = find(revocations, client_id, strcspn(client_id, "/"));

	return found != NULL && !revocation_is_over(found->until, now);
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

static bool read_line(const char *line, struct revocations *out)
{
	size_t digits = strspn(line, "0123456789");
	const char *name = line + digits + 1;

	if (digits == 0 || digits > MAX_DIGITS || line[digits] != ' ' || !identity_name_is_valid(name)) {
		return false;
	}
	if (out->count >= MAX_REVOCATIONS && find(out, name, strlen(name)) == NULL) {
		return false;
	}
	return set(out, name, (time_t)strtoll(line, NULL, 10));
}

size_t revocations_parse(struct revocations *revocations, char *text)
{
	size_t invalid = 0;
	char *line;

	while ((line = strsep(&text, "\n")) != NULL) {
		invalid += *line != '\0' && !read_line(line, revocations);
	}
	return invalid;
}

/* Returns the file's text, or NULL with errno set. A file that is too long is cut. */
static char *read_text(const char *path)
{
	char *text = malloc(MAX_FILE_BYTES + 1);
	size_t count = 0;
	ssize_t got = -1;
	int file = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);

	if (text != NULL && file >= 0) {
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

bool revocations_load(struct revocations *revocations, const char *path, struct load_error *error)
{
	char *text = read_text(path);
	size_t invalid;

	if (text == NULL) {
		if (errno == ENOENT) {
			return true;
		}
		snprintf(error->text, sizeof error->text, "revocations file %.200s: cannot be read: %.64s", path,
		         strerror(errno));
		return false;
	}
	invalid = revocations_parse(revocations, text);
	free(text);
	if (invalid > 0) {
		snprintf(error->text, sizeof error->text, "revocations file %.200s: is damaged: %zu lines are ignored", path,
		         invalid);
	}
	return invalid == 0;
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
