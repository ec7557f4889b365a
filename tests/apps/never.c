/* never.c: a program that must not run. */
#include <stdio.h>

#ifdef GO
__attribute__((section(".go.buildinfo"), used)) static const char info[32] = "\xff Go buildinf:";
#endif

int main(void) {
  puts("it ran");
  return 0;
}
