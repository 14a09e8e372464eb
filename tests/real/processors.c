/* Preloaded into a program, says that it may use as many processors as PROCESSORS names. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <pthread.h>
#include <sched.h>
#include <stdlib.h>
#include <sys/sysinfo.h>
#include <unistd.h>

static int count(void) { return atoi(getenv("PROCESSORS")); }

static int all(size_t size, cpu_set_t *set) {
    CPU_ZERO_S(size, set);
    for (int number = 0; number < count(); number++) CPU_SET_S(number, size, set);
    return 0;
}

int sched_getaffinity(pid_t process, size_t size, cpu_set_t *set) { return all(size, set); }

int pthread_getaffinity_np(pthread_t thread, size_t size, cpu_set_t *set) { return all(size, set); }

int get_nprocs(void) { return count(); }

int get_nprocs_conf(void) { return count(); }

long sysconf(int name) {
    if (name == _SC_NPROCESSORS_ONLN || name == _SC_NPROCESSORS_CONF) return count();
    return ((long (*)(int))dlsym(RTLD_NEXT, "sysconf"))(name);
}
