/* What container.c, which slurmstepd runs, shares with inside.c, which its child runs. */
#include <stdbool.h>

enum { IMAGE, MOUNTS, WORKDIR, ENV, WRITABLE, HOME, ENTRYPOINT, REMAP, OPTIONS };

struct bind {
	char *source, *target, *flags;
};

/* What was asked for: a value each, of switches "1" or "0"; NULL: nothing. */
extern const char *want[OPTIONS];

/* The job's variables, as they were when its step came. */
extern char **job_environment;

bool on(int kind);
bool is_kept(const char *name);
bool is_locale(const char *name);
const char *job_value(const char *name);

/* Makes the container on the folder `scratch` and becomes its shell; whatever it prints goes to `log`. */
void __attribute__((noreturn))
become_shell(int log, const char *scratch, const struct bind *binds, int count, const char *home);
