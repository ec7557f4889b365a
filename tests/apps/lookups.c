/* How fast names are looked up by getaddrinfo():
 *   lookups same NAME COUNT                the same name again and again
 *   lookups new SUFFIX COUNT AT_ONCE       names that nobody has asked for, by so many threads: as 10-1-2-3.SUFFIX
 * Says "p50 US", "p99 US", "rate PER_SECOND" and "failed COUNT". */
#define _GNU_SOURCE
#include <err.h>
#include <errno.h>
#include <netdb.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

static const char *word;
static int count, next, unique;
static unsigned start;
/* How long each took; below 0 if it failed. */
static double *times;

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1e6 + t.tv_nsec / 1e3;
}

static void *asker(void *unused)
{
    for (int i; (i = __atomic_fetch_add(&next, 1, __ATOMIC_RELAXED)) < count;) {
        char name[256];
        unsigned address = start + i;
        struct addrinfo hints = {.ai_socktype = SOCK_STREAM}, *list;
        if (unique)
            snprintf(name, sizeof name, "10-%u-%u-%u.%s", address >> 16 & 255, address >> 8 & 255, address & 255, word);
        else
            snprintf(name, sizeof name, "%s", word);
        double begin = now();
        int failed = getaddrinfo(name, "80", &hints, &list);
        times[i] = failed ? -1 : now() - begin;
        if (!failed)
            freeaddrinfo(list);
    }
    return unused;
}

static int by_value(const void *a, const void *b)
{
    double d = *(const double *)a - *(const double *)b;
    return d < 0 ? -1 : d > 0;
}

int main(int words, char **all)
{
    unique = words == 5 && !strcmp(all[1], "new");
    if (!unique && (words != 4 || strcmp(all[1], "same")))
        errx(2, "usage: see the head of lookups.c");
    word = all[2];
    count = atoi(all[3]);
    times = calloc(count, sizeof *times);
    int threads = unique ? atoi(all[4]) : 1;
    pthread_t *ids = calloc(threads, sizeof *ids);
    start = (unsigned)time(NULL) * 2654435761u + (unsigned)getpid() * 40503u;
    double begin = now();
    for (int i = 0; i < threads; i++)
        if ((errno = pthread_create(&ids[i], NULL, asker, NULL)))
            err(1, "pthread_create");
    for (int i = 0; i < threads; i++)
        pthread_join(ids[i], NULL);
    double took = now() - begin;
    qsort(times, count, sizeof *times, by_value);
    int failed = 0;
    while (failed < count && times[failed] < 0)
        failed++;
    int good = count - failed;
    if (good)
        printf("p50 %.1f\np99 %.1f\nrate %.1f\n", times[failed + good / 2], times[failed + good * 99 / 100],
               good * 1e6 / took);
    printf("failed %d\n", failed);
    return 0;
}
