/* getaddrinfo_a(3) in all its modes; "x.silent.test" is a name whose lookup takes long. Prints what came, or the line of
   the check that failed. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netdb.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define CHECK(what)                                \
  do {                                             \
    if (!(what)) {                                 \
      printf("line %d: %s\n", __LINE__, #what);    \
      exit(1);                                     \
    }                                              \
  } while (0)

static const struct addrinfo stream = {.ai_family = AF_INET, .ai_socktype = SOCK_STREAM};

static void say(struct gaicb *request) {
  int error = gai_error(request);
  char address[64] = "-";
  if (!error)
    inet_ntop(AF_INET, &((struct sockaddr_in *)request->ar_result->ai_addr)->sin_addr, address, sizeof address);
  printf("%s %d %s\n", request->ar_name, error, address);
  if (!error) freeaddrinfo(request->ar_result);
  request->ar_result = NULL;
}

static void wait_for(struct gaicb *request) {
  const struct gaicb *list[] = {request};
  while (gai_error(request) == EAI_INPROGRESS) gai_suspend(list, 1, NULL);
}

/* Three names, one of them twice, and a hole. */
static void waiting(void) {
  struct gaicb requests[4] = {{"backend", "80", &stream}, {"nowhere", "80", &stream}, {"10.1.2.3", NULL, &stream}, {"backend", "80", &stream}};
  struct gaicb *list[] = {&requests[0], NULL, &requests[1], &requests[2], &requests[3]};
  CHECK(getaddrinfo_a(GAI_WAIT, list, 5, NULL) == 0);
  for (int i = 0; i < 4; i++) say(&requests[i]);
  CHECK(gai_suspend((const struct gaicb **)list, 5, NULL) == EAI_ALLDONE);
  CHECK(gai_cancel(&requests[0]) == EAI_ALLDONE);
}

static void many(void) {
  enum { COUNT = 100 };
  static struct gaicb requests[COUNT], *list[COUNT];
  for (int i = 0; i < COUNT; i++) {
    requests[i] = (struct gaicb){i % 2 ? "backend" : "db-0.db", "80", &stream};
    list[i] = &requests[i];
  }
  CHECK(getaddrinfo_a(GAI_NOWAIT, list, COUNT, NULL) == 0);
  for (int i = 0; i < COUNT; i++) {
    wait_for(list[i]);
    CHECK(gai_error(list[i]) == 0);
    freeaddrinfo(list[i]->ar_result);
  }
}

/* A name that takes long is in the way of no other. */
static void slow(void) {
  static struct gaicb silent = {"x.silent.test", "80", &stream}, quick = {"backend", "80", &stream};
  struct gaicb *list[] = {&silent, &quick};
  const struct gaicb *both[] = {&silent, &quick}, *only[] = {&silent};
  CHECK(getaddrinfo_a(GAI_NOWAIT, list, 2, NULL) == 0);
  CHECK(gai_suspend(both, 2, NULL) == 0);
  CHECK(gai_error(&silent) == EAI_INPROGRESS);
  say(&quick);
  struct timespec moment = {0, 1000000};
  CHECK(gai_suspend(only, 1, &moment) == EAI_AGAIN);
  CHECK(gai_cancel(&silent) == EAI_NOTCANCELED);
}

static struct gaicb noticed = {"backend", "80", &stream};
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t told = PTHREAD_COND_INITIALIZER;
static int value;

static void on_thread(union sigval given) {
  pthread_mutex_lock(&lock);
  value = given.sival_int;
  pthread_cond_signal(&told);
  pthread_mutex_unlock(&lock);
}

static void notices(void) {
  struct gaicb *list[] = {&noticed}, *none[] = {NULL};
  sigset_t user, before;
  sigemptyset(&user);
  sigaddset(&user, SIGUSR1);
  pthread_sigmask(SIG_BLOCK, &user, &before);
  struct sigevent event = {.sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGUSR1, .sigev_value.sival_int = 41};
  siginfo_t info;
  CHECK(getaddrinfo_a(GAI_NOWAIT, list, 1, &event) == 0);
  CHECK(sigwaitinfo(&user, &info) == SIGUSR1);
  CHECK(info.si_code == SI_ASYNCNL && info.si_pid == getpid() && info.si_uid == getuid() && info.si_value.sival_int == 41);
  say(&noticed);
  CHECK(getaddrinfo_a(GAI_NOWAIT, none, 1, &event) == 0);
  CHECK(sigwaitinfo(&user, &info) == SIGUSR1 && info.si_value.sival_int == 41);
  event = (struct sigevent){.sigev_notify = SIGEV_THREAD, .sigev_notify_function = on_thread, .sigev_value.sival_int = 42};
  CHECK(getaddrinfo_a(GAI_NOWAIT, list, 1, &event) == 0);
  pthread_mutex_lock(&lock);
  while (!value) pthread_cond_wait(&told, &lock);
  CHECK(value == 42);
  say(&noticed);
  event.sigev_notify = SIGEV_NONE;
  CHECK(getaddrinfo_a(GAI_NOWAIT, list, 1, &event) == 0);
  wait_for(&noticed);
  say(&noticed);
}

int main(void) {
  CHECK(getaddrinfo_a(7, NULL, 0, NULL) == EAI_SYSTEM && errno == EINVAL);
  CHECK(gai_suspend(NULL, 0, NULL) == EAI_ALLDONE);
  CHECK(getaddrinfo_a(GAI_WAIT, NULL, 0, NULL) == 0);
  waiting();
  many();
  notices();
  slow();
  puts("ok");
  fflush(stdout);
  _exit(0);
}
