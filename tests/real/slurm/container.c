/*
 * pyxis's place in the tests' Slurm: a SPANK plugin that takes the options of a launcher and really starts the tasks of
 * a step in a .sqsh. Arguments in plugstack.conf: the node's folder for containers, the one in which a test puts what is
 * to go wrong there (see cluster.py), and pyxis's own, of which it obeys use_squashfuse.
 *
 * One container per step and node, of the first task's making: a folder pyxis_JOB.STEP, which must not be there before,
 * and a mount namespace. A child makes it and becomes a shell of the image, which stops itself when the image's start
 * script is done; by then its namespace, environment and working directory are the tasks'. The folder is removed by a
 * child of slurmstepd when the last task has ended; where that is killed, it stays.
 * Only root can do this, so only root's jobs run in containers.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pwd.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <slurm/slurm.h>
#include <slurm/spank.h>

#include "container.h"

SPANK_PLUGIN(pyxis, 1);

#define MOUNTS_MAX 256
#define START_SECONDS 60
#define VERSION "0.24.0" /* whose options and messages these are */

static const char *const names[] = {
	"image", "mounts", "workdir", "env", "writable", "mount-home", "entrypoint", "remap-root",
};
static const char *const defaults[] = {
	"IMAGE", "MOUNTS", "WORKDIR", "ENV", "WRITABLE", "MOUNT_HOME", "ENTRYPOINT", "REMAP_ROOT",
};

const char *want[OPTIONS];

/* What the tasks of this node share. `state`: of the container's start; `took`: how many tasks are in it. */
enum { NOBODY, STARTING, STARTED, BROKEN };
static struct {
	int state, took;
	pid_t shell;
} *shared;

static uint32_t ended; /* tasks, in slurmstepd */
static char container[PATH_MAX];
static int space = -1;
static char *environment, workdir[PATH_MAX];
static size_t environment_size;
char **job_environment;

static bool is_path(const char *text)
{
	return text && (*text == '/' || *text == '.');
}

/* Splits SRC[:DST[:FLAGS]][,...]; returns how many there are, or -1 after a message. */
static int parse_mounts(const char *text, struct bind *out)
{
	int count = 0;
	char *rest = strdup(text), *entry;

	while ((entry = strsep(&rest, ","))) {
		char *whole = strdup(entry), *source = strsep(&entry, ":"), *target = strsep(&entry, ":");
		char *flags = entry; /* whatever follows */
		bool special = !strcmp(source, "tmpfs") || !strcmp(source, "umount");

		if (!target && !special)
			target = source;
		if (!is_path(target) || !(special || is_path(source)) || count == MOUNTS_MAX) {
			slurm_error("pyxis: --container-mounts: invalid format: %s", whole);
			return -1;
		}
		out[count++] = (struct bind){source, target, flags ? flags : ""};
	}
	return count;
}

/* Takes an option, at the client and again on each node. */
static int take(int option, const char *value, int remote)
{
	struct bind ignored[MOUNTS_MAX];
	int kind = option % OPTIONS;

	(void)remote;
	if (kind >= WRITABLE)
		value = option < OPTIONS ? "1" : "0";
	if (!value || !*value) {
		slurm_error("pyxis: --container-%s: argument required", names[kind]);
		return -1;
	}
	if (kind >= WRITABLE && want[kind] && strcmp(want[kind], value)) {
		slurm_error("pyxis: --container-%s and --no-container-%s are mutually exclusive", names[kind], names[kind]);
		return -1;
	}
	if (kind == IMAGE && want[kind] && strcmp(want[kind], value)) {
		slurm_error("pyxis: --container-image specified multiple times");
		return -1;
	}
	if (kind == MOUNTS && parse_mounts(value, ignored) < 0)
		return -1;
	want[kind] = strdup(value);
	return 0;
}

static int offer(spank_t sp, char *name, int has_argument, int value)
{
	char *argument = has_argument ? "VALUE" : NULL;
	struct spank_option option = {name, argument, "the tests' container plugin", has_argument, value, take};

	return spank_option_register(sp, &option) == ESPANK_SUCCESS ? 0 : -1;
}

/* Whether the test has put a file of this name on this node. */
static bool told(char **av, const char *name)
{
	char path[PATH_MAX];

	snprintf(path, sizeof path, "%s/%s", av[1], name);
	return !access(path, F_OK);
}

/* Whether the site says so, or the test of this node. */
static bool mounts_images(int ac, char **av)
{
	for (int n = 2; n < ac; n++)
		if (!strcmp(av[n], "use_squashfuse=true"))
			return true;
	return told(av, ".squashfuse");
}

int slurm_spank_init(spank_t sp, int ac, char **av)
{
	if (spank_context() == S_CTX_SLURMD)
		slurm_info("pyxis: version v" VERSION);
	if (ac < 2 || (spank_context() == S_CTX_REMOTE && told(av, ".no-pyxis")))
		return -1;
	for (int kind = 0; kind < OPTIONS; kind++) {
		char *yes, *no;

		if (asprintf(&yes, "container-%s", names[kind]) < 0 || asprintf(&no, "no-container-%s", names[kind]) < 0)
			return -1;
		if (offer(sp, yes, kind < WRITABLE, kind) || (kind > WRITABLE && offer(sp, no, 0, OPTIONS + kind)))
			return -1;
	}
	return 0;
}

int slurm_spank_init_post_opt(spank_t sp, int ac, char **av)
{
	(void)sp, (void)ac, (void)av;
	if (spank_context() != S_CTX_LOCAL || want[IMAGE] || getenv("PYXIS_CONTAINER_IMAGE"))
		return 0;
	for (int kind = IMAGE + 1; kind < OPTIONS; kind++)
		if (want[kind])
			slurm_error("pyxis: ignoring --container-%s because neither --container-image nor "
				    "--container-name is set", names[kind]);
	return 0;
}

bool on(int kind)
{
	return want[kind] && strchr("1tTyY", *want[kind]);
}

/* What the job's environment says where the options are silent. */
static void take_defaults(spank_t sp)
{
	char name[64], value[65536];

	for (int kind = 0; kind < OPTIONS; kind++) {
		snprintf(name, sizeof name, "PYXIS_CONTAINER_%s", defaults[kind]);
		if (!want[kind] && spank_getenv(sp, name, value, sizeof value) == ESPANK_SUCCESS && *value)
			want[kind] = strdup(value);
	}
}

/* A variable of an environment block or array entry: whether `entry` is NAME=... */
static bool is_variable(const char *entry, const char *name)
{
	size_t length = strlen(name);

	return !strncmp(entry, name, length) && entry[length] == '=';
}

const char *job_value(const char *name)
{
	for (char **entry = job_environment; entry && *entry; entry++)
		if (is_variable(*entry, name))
			return *entry + strlen(name) + 1;
	return NULL;
}

/* Whether the job's value of this variable was asked for. */
bool is_kept(const char *name)
{
	size_t length = strlen(name);

	for (const char *at = want[ENV]; at; at = strchr(at, ',')) {
		at += *at == ',';
		if (!strncmp(at, name, length) && (!at[length] || at[length] == ','))
			return job_value(name) != NULL;
	}
	return false;
}

bool is_locale(const char *name)
{
	return !strcmp(name, "LANG") || !strcmp(name, "LANGUAGE") || !strncmp(name, "LC_", 3);
}

static int fail(const char *what, const char *about, const char *log)
{
	char *rest = strdup(log), *line;

	slurm_error("pyxis: %s%s", what, about);
	slurm_error("pyxis: printing enroot log file:");
	while ((line = strsep(&rest, "\n")))
		if (*line)
			slurm_error("pyxis:     %s", line);
	return -1;
}

static const char what[] = "failed to create container filesystem for image: ";

static int check_image(void)
{
	char magic[4] = "";
	int fd;

	if (*want[IMAGE] != '/' && strncmp(want[IMAGE], "./", 2))
		return fail("failed to import docker image: ", want[IMAGE], "curl: (6) Could not resolve host: registry-1.docker.io");
	if ((fd = open(want[IMAGE], O_RDONLY | O_CLOEXEC)) < 0)
		return fail(what, want[IMAGE], "[ERROR] No such file or directory");
	if (read(fd, magic, sizeof magic) != sizeof magic || memcmp(magic, "hsqs", sizeof magic)) {
		close(fd);
		return fail(what, want[IMAGE], "[ERROR] Invalid image format");
	}
	return close(fd);
}

/* All mounts, the system's first; sources without links. Returns their number, or -1 after a message. */
static int all_mounts(spank_t sp, const char *home, struct bind *binds)
{
	char *text = "/proc,/sys,/dev,tmpfs:/tmp:mode=1777,tmpfs:/var/run,tmpfs:/var/lock", **argv, real[PATH_MAX];
	const char *files[] = {"/etc/hosts", "/etc/resolv.conf", NULL, NULL};
	int argc, count, system;
	uint32_t step;

	if (spank_get_item(sp, S_JOB_STEPID, &step) == ESPANK_SUCCESS && step == SLURM_BATCH_SCRIPT
	    && spank_get_item(sp, S_JOB_ARGV, &argc, &argv) == ESPANK_SUCCESS && asprintf(&text, "%s,%s", text, argv[0]) < 0)
		return -1;
	files[2] = on(HOME) ? home : NULL;
	for (int i = 0; files[i]; i++)
		if (!access(files[i], F_OK) && asprintf(&text, "%s,%s", text, files[i]) < 0)
			return -1;
	system = parse_mounts(text, binds);
	if (want[MOUNTS] && asprintf(&text, "%s,%s", text, want[MOUNTS]) < 0)
		return -1;
	count = parse_mounts(text, binds);
	for (int i = 0; i < count; i++) {
		if (!strcmp(binds[i].source, "tmpfs") || !strcmp(binds[i].source, "umount"))
			continue;
		if (!realpath(binds[i].source, real)) {
			slurm_error("pyxis: %ssource path does not exist: %s", i < system ? "" : "--container-mounts: ", binds[i].source);
			return -1;
		}
		binds[i].source = strdup(real);
	}
	return count;
}

/* pyxis has bash echo the mounts, each as a line of three words. */
static int through_bash(struct bind *binds, int count)
{
	char *script = strdup(""), *line = NULL, *word, *rest;
	size_t room = 0;
	FILE *lines;
	int status;

	for (int i = 0; i < count; i++)
		if (asprintf(&script, "%s\necho \"%s\t%s\t%s\"", script, binds[i].source, binds[i].target, binds[i].flags) < 0)
			return -1;
	setenv("SLIPWAY_TEST_MOUNTS", script, 1);
	if (!(lines = popen("exec bash -c \"$SLIPWAY_TEST_MOUNTS\" 2>&1", "re")))
		return -1;
	for (int i = 0; i < count && getline(&line, &room, lines) > 0; i++) {
		line[strcspn(line, "\n")] = 0;
		rest = strdup(line);
		binds[i].source = (word = strsep(&rest, "\t")) ? word : "";
		binds[i].target = (word = strsep(&rest, "\t")) ? word : "";
		binds[i].flags = rest ? rest : "";
	}
	unsetenv("SLIPWAY_TEST_MOUNTS");
	if ((status = pclose(lines)))
		return fail("container start failed with error code: 1", "", "[ERROR] Invalid argument: .enroot_config_Zd81Hk");
	return 0;
}

/* A child that signals may end: waits while the test has a file of this name on this node, then does it to the folder. */
static pid_t at_work(char **av, const char *name, const char *verb)
{
	char *script, *file;
	sigset_t none;
	pid_t pid = fork();

	if (pid)
		return pid;
	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
	signal(SIGTERM, SIG_DFL);
	if (asprintf(&script, "while [ -e \"$0\" ]; do sleep 0.02; done; exec %s \"$1\"", verb) < 0 || asprintf(&file, "%s/%s", av[1], name) < 0)
		_exit(1);
	close(STDERR_FILENO);
	execlp("sh", "sh", "-c", script, file, container, NULL);
	_exit(1);
}

/* The image's root is unpacked here, on a real one. */
static int create(char **av)
{
	char *log;
	int status;
	pid_t pid = at_work(av, ".unpacking", "mkdir");

	if (waitpid(pid, &status, 0) == pid && !status)
		return 0;
	if (WIFSIGNALED(status)) {
		slurm_error("pyxis: child %d terminated with signal %d", pid, WTERMSIG(status));
		return fail(what, want[IMAGE], "[INFO] Extracting squashfs filesystem...\nParallel unsquashfs: Using 2 processors\nTerminated");
	}
	slurm_error("pyxis: child %d failed with error code: 1", pid);
	if (asprintf(&log, "[ERROR] File already exists: %s", container) < 0)
		return -1;
	return fail(what, want[IMAGE], log);
}

/* Waits until the shell has stopped itself. */
static bool has_stopped(pid_t pid)
{
	int status;

	for (int tick = 0; tick < START_SECONDS * 200; tick++) {
		if (waitpid(pid, &status, WUNTRACED | WNOHANG) == pid)
			return WIFSTOPPED(status);
		usleep(5000);
	}
	kill(pid, SIGKILL);
	waitpid(pid, &status, 0);
	return false;
}

/* Keeps what a task takes over from the stopped shell. */
static int take_over(pid_t pid)
{
	char path[64];
	FILE *file;
	size_t room = 1 << 22;
	ssize_t length;

	snprintf(path, sizeof path, "/proc/%d/ns/mnt", pid);
	space = open(path, O_RDONLY | O_CLOEXEC);
	snprintf(path, sizeof path, "/proc/%d/cwd", pid);
	length = readlink(path, workdir, sizeof workdir - 1);
	workdir[length < 0 ? 0 : length] = 0;
	snprintf(path, sizeof path, "/proc/%d/environ", pid);
	if ((file = fopen(path, "re")) && (environment = calloc(1, room + 1)))
		environment_size = fread(environment, 1, room, file);
	if (file)
		fclose(file);
	return space >= 0 && environment_size ? 0 : -1;
}

/* The job's variables as they are now: a task's are changed while we still compare with them. */
static int keep_environment(spank_t sp)
{
	char **now;
	size_t count = 0;

	if (spank_get_item(sp, S_JOB_ENV, &now) != ESPANK_SUCCESS)
		return -1;
	while (now[count])
		count++;
	job_environment = calloc(count + 1, sizeof *job_environment);
	while (count--)
		job_environment[count] = strdup(now[count]);
	return 0;
}

/* The stopped shell of a new container, or -1. */
static pid_t start(spank_t sp, char **av)
{
	struct passwd *user = getpwuid(geteuid());
	struct bind binds[MOUNTS_MAX];
	char log[16384] = "";
	const char *home;
	int count, fd;
	pid_t pid;

	home = on(REMAP) || !user ? "/root" : user->pw_dir;
	if (check_image() || create(av))
		return -1;
	if ((count = all_mounts(sp, home, binds)) < 0) {
		slurm_error("pyxis: couldn't create enroot start configuration script");
		return -1;
	}
	if (through_bash(binds, count))
		return -1;
	fd = memfd_create("enroot.log", MFD_CLOEXEC);
	if (!(pid = fork()))
		become_shell(fd, container, binds, count, home);
	if (pid > 0 && has_stopped(pid)) {
		close(fd);
		return pid;
	}
	if (pread(fd, log, sizeof log - 1, 0) <= 0)
		strcpy(log, "[ERROR] container exited too soon");
	close(fd);
	fail("container start failed with error code: 1", "", log);
	slurm_error("pyxis: couldn't start container");
	return -1;
}

/* In place of squashfuse, which is a child of the task, too: whoever ends it takes the root from all that are in there. */
static void mount_instead(void)
{
	static const char script[] =
		"trap 'for p in /proc/[0-9]*; do\n"
		"  [ \"$(readlink \"$p/ns/mnt\")\" != \"$0\" ] || kill -KILL \"${p#/proc/}\"\n"
		"done; exit' TERM\n"
		"while [ -d /proc/$PPID ]; do sleep 0.05; done";
	char name[64], path[64];
	sigset_t none;
	ssize_t length;

	if (fork())
		return;
	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
	signal(SIGTERM, SIG_DFL);
	snprintf(path, sizeof path, "/proc/self/fd/%d", space);
	length = readlink(path, name, sizeof name - 1);
	name[length < 0 ? 0 : length] = 0;
	close_range(0, ~0U, 0);
	execlp("sh", "sh", "-c", script, name, NULL);
	_exit(1);
}

/* The first task starts the container, and ends its shell once all have taken from it what they need. */
static int join(spank_t sp, int ac, char **av)
{
	uint32_t count = 1;
	int nobody = NOBODY, ticks = START_SECONDS * 2000;

	if (!__atomic_compare_exchange_n(&shared->state, &nobody, STARTING, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST)) {
		while (__atomic_load_n(&shared->state, __ATOMIC_SEQ_CST) == STARTING)
			usleep(5000);
		if (shared->state == BROKEN || take_over(shared->shell)) {
			slurm_error("pyxis: container was not started successfully by another task");
			return -1;
		}
		__atomic_add_fetch(&shared->took, 1, __ATOMIC_SEQ_CST);
		return 0;
	}
	shared->shell = start(sp, av);
	__atomic_store_n(&shared->state, shared->shell > 0 && !take_over(shared->shell) ? STARTED : BROKEN, __ATOMIC_SEQ_CST);
	if (shared->state == BROKEN)
		return -1;
	spank_get_item(sp, S_JOB_LOCAL_TASK_COUNT, &count);
	while (__atomic_load_n(&shared->took, __ATOMIC_SEQ_CST) + 1 < (int)count && ticks--)
		usleep(5000);
	kill(shared->shell, SIGKILL);
	waitpid(shared->shell, NULL, 0);
	if (mounts_images(ac, av))
		mount_instead();
	return 0;
}

int slurm_spank_user_init(spank_t sp, int ac, char **av)
{
	uint32_t job, step;

	(void)ac;
	take_defaults(sp);
	if (!want[IMAGE])
		return 0;
	if (keep_environment(sp) || spank_get_item(sp, S_JOB_ID, &job) || spank_get_item(sp, S_JOB_STEPID, &step))
		return -1;
	snprintf(container, sizeof container, "%s/pyxis_%u.%u", av[0], job, step);
	shared = mmap(NULL, sizeof *shared, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	return shared == MAP_FAILED ? -1 : 0;
}

int slurm_spank_task_init(spank_t sp, int ac, char **av)
{
	const char *folder = want[WORKDIR] ? want[WORKDIR] : workdir;

	if (!shared)
		return 0;
	if (join(sp, ac, av))
		return -1;
	for (char **entry = job_environment; *entry; entry++) {
		char *name = strndup(*entry, strcspn(*entry, "="));

		if (is_locale(name) && !is_kept(name))
			spank_unsetenv(sp, name);
	}
	for (char *at = environment; at < environment + environment_size; at += strlen(at) + 1) {
		char *name = strndup(at, strcspn(at, "="));
		const char *was = job_value(name), *now = at + strlen(name) + 1;

		/* Not what the shell has from the job: of that, a task's own may differ by now. */
		if (*name != '_' && strcmp(name, "SHLVL") && !is_kept(name) && (is_locale(name) || !was || strcmp(was, now)))
			spank_setenv(sp, name, now, 1);
	}
	if (setns(space, CLONE_NEWNS)) {
		slurm_error("pyxis: couldn't join mount namespace: %m");
		return -1;
	}
	if (chdir(folder)) {
		slurm_error("pyxis: couldn't chdir to %s: %m", folder);
		return -1;
	}
	return 0;
}

int slurm_spank_task_exit(spank_t sp, int ac, char **av)
{
	uint32_t count = 1;

	(void)ac;
	if (!shared || spank_get_item(sp, S_JOB_LOCAL_TASK_COUNT, &count) || ++ended < count)
		return 0;
	waitpid(at_work(av, ".removing", "rm -rf"), NULL, 0);
	return 0;
}
