/* What slurmstepd's child does: makes a container around itself. No word of pyxis's or enroot's code is in here. */
#define _GNU_SOURCE
#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "container.h"

#define DEFAULT_PATH "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

static void __attribute__((noreturn, format(printf, 1, 2))) die(const char *format, ...)
{
	va_list words;

	va_start(words, format);
	vdprintf(STDERR_FILENO, format, words);
	va_end(words);
	_exit(1);
}

static void mount_or_die(const char *source, const char *target, const char *type, unsigned long flags,
			 const char *data)
{
	if (mount(source, target, type, flags, data))
		die("enroot-mount: failed to mount: %s at %s: %s\n", source ? source : type, target, strerror(errno));
}

static void run_or_die(const char *program, ...)
{
	char *words[16] = {(char *)program};
	int status, count = 1;
	va_list more;
	pid_t pid;

	va_start(more, program);
	while ((words[count] = va_arg(more, char *)))
		count++;
	va_end(more);
	if (!(pid = fork())) {
		execvp(program, words);
		_exit(127);
	}
	if (waitpid(pid, &status, 0) < 0 || status)
		die("[ERROR] Command failed: %s\n", program);
}

/* Makes a mount point and what is above it, through links that lead nowhere yet. */
static void make(const char *path, bool folder)
{
	char link[PATH_MAX], *copy, *slash;
	struct stat found;
	ssize_t length;
	int fd;

	if (!stat(path, &found))
		return;
	copy = strdup(path);
	slash = strrchr(copy, '/');
	if ((length = readlink(path, link, sizeof link - 1)) > 0) {
		link[length] = 0;
		*slash = 0;
		if (*link != '/' && asprintf(&copy, "%s/%s", copy, link) > 0)
			return make(copy, folder);
		return make(link, folder);
	}
	if (slash > copy) {
		*slash = 0;
		make(copy, true);
	}
	if (folder ? mkdir(path, 0755) : (fd = open(path, O_CREAT | O_WRONLY, 0644)) < 0 || close(fd))
		die("enroot-mount: failed to create: %s: %s\n", path, strerror(errno));
}

static void mount_one(const struct bind *bind)
{
	char source[PATH_MAX + 8], *flags = strdup(bind->flags), *flag, data[256] = "mode=755";
	unsigned long more = 0;
	struct stat found = {.st_mode = S_IFDIR};

	while ((flag = strsep(&flags, "+"))) {
		if (strchr(flag, '='))
			snprintf(data, sizeof data, "%s", flag);
		more |= !strcmp(flag, "ro") ? MS_RDONLY : !strcmp(flag, "nosuid") ? MS_NOSUID : 0;
		more |= !strcmp(flag, "nodev") ? MS_NODEV : !strcmp(flag, "noexec") ? MS_NOEXEC : 0;
	}
	if (!strcmp(bind->source, "umount")) {
		if (umount2(bind->target, MNT_DETACH))
			die("enroot-mount: failed to unmount: %s: %s\n", bind->target, strerror(errno));
		return;
	}
	if (!strcmp(bind->source, "tmpfs")) {
		make(bind->target, true);
		return mount_or_die("tmpfs", bind->target, "tmpfs", more, data);
	}
	snprintf(source, sizeof source, "/.host%s", bind->source);
	if (stat(source, &found))
		die("enroot-mount: failed to mount: %s at %s: %s\n", bind->source, bind->target, strerror(errno));
	make(bind->target, S_ISDIR(found.st_mode));
	mount_or_die(source, bind->target, NULL, MS_BIND | MS_REC, NULL);
	if (more)
		mount_or_die(NULL, bind->target, NULL, MS_REMOUNT | MS_BIND | more, NULL);
}

/* The image's root with a fresh layer on it becomes our root, with the mounts in it. */
static void enter(const char *scratch, const struct bind *binds, int count)
{
	if (unshare(CLONE_NEWNS))
		die("[ERROR] unshare: %s\n", strerror(errno));
	mount_or_die(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL);
	if (chdir(scratch) || mkdir("image", 0755) || mkdir("upper", 0755) || mkdir("work", 0755) || mkdir("root", 0755))
		die("[ERROR] %s: %s\n", scratch, strerror(errno));
	run_or_die("mount", "-t", "squashfs", "-o", "loop,ro", want[IMAGE], "image", NULL);
	mount_or_die("overlay", "root", "overlay", 0, "lowerdir=image,upperdir=upper,workdir=work");
	if (chdir("root") || mkdir(".host", 0) || syscall(SYS_pivot_root, ".", ".host") || chdir("/"))
		die("[ERROR] pivot_root: %s\n", strerror(errno));
	for (int i = 0; i < count; i++)
		mount_one(&binds[i]);
	if (umount2("/.host", MNT_DETACH) || rmdir("/.host"))
		die("[ERROR] /.host: %s\n", strerror(errno));
	if (!on(WRITABLE))
		mount_or_die(NULL, "/", NULL, MS_REMOUNT | MS_BIND | MS_RDONLY, NULL);
}

/* What is asked for by name comes as `NAME=VALUE`, of which each further line is one more such line. */
static void by_line(const char *value)
{
	char *rest = strdup(value), *line;

	for (strsep(&rest, "\n"); (line = strsep(&rest, "\n"));)
		if (isalpha((unsigned char)*line) && strchr(line, '='))
			putenv(line);
}

/* The image's variables beat the job's, but for those that were asked for by name. */
static void set_environment(const char *home)
{
	const char *devices = job_value("NVIDIA_VISIBLE_DEVICES");
	char line[65536], *value;
	FILE *file;

	clearenv();
	setenv("PATH", DEFAULT_PATH, 1);
	for (char **entry = job_environment; *entry; entry++) {
		char *name = strndup(*entry, strcspn(*entry, "="));

		if (strncmp(name, "LD_", 3) && (is_kept(name) || (strcmp(name, "PATH") && !is_locale(name))))
			setenv(name, job_value(name), 1);
		if (is_kept(name))
			by_line(job_value(name));
	}
	setenv("HOME", home, 1);
	file = fopen("/etc/environment", "re");
	while (file && fgets(line, sizeof line, file)) {
		line[strcspn(line, "\n")] = 0;
		value = strchr(line, '=');
		if (!value || !isalpha((unsigned char)*line))
			continue;
		*value++ = 0;
		if (!is_kept(line))
			setenv(line, value, 1);
	}
	devices = devices ? devices : getenv("NVIDIA_VISIBLE_DEVICES");
	if (devices && *devices && strcmp(devices, "void"))
		die("[ERROR] Command not found: nvidia-container-cli, see https://github.com/NVIDIA/libnvidia-container\n"
		    "[ERROR] /etc/enroot/hooks.d/98-nvidia.sh exited with return code 1\n");
}

static const char *const shell =
	"case ${ENROOT_LOGIN_SHELL-} in n*|N*) ;; *)\n"
	"  [ ! -r /etc/profile ] || . /etc/profile\n"
	"  [ ! -r \"$HOME/.profile\" ] || . \"$HOME/.profile\" ;; esac\n"
	"stop='kill -STOP $$; exit 0'\n"
	"[ ! -r /etc/rc ] || [ $1 = 0 ] || exec /bin/sh /etc/rc sh -c \"$stop\"\n"
	"[ ! -r /etc/rc ] || while read -r line; do\n"
	"  case $line in 'cd '*' && unset OLDPWD'*) eval \"$line\"; break ;; esac\n"
	"done </etc/rc\n"
	"exec /bin/sh -c \"$stop\"\n";

void become_shell(int log, const char *scratch, const struct bind *binds, int count, const char *home)
{
	sigset_t none;
	int null = open("/dev/null", O_RDONLY);

	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
	dup2(null, STDIN_FILENO);
	dup2(log, STDOUT_FILENO);
	dup2(log, STDERR_FILENO);
	enter(scratch, binds, count);
	set_environment(home);
	if (chdir(home) && chdir("/"))
		die("[ERROR] /: %s\n", strerror(errno));
	execl("/bin/sh", "sh", "-c", shell, "sh", on(ENTRYPOINT) ? "1" : "0", NULL);
	die("[ERROR] No such file or directory: /bin/sh\n");
}
