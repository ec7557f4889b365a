import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;

import java.net.ConnectException;
import java.net.Socket;
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse.BodyHandlers;
import org.junit.jupiter.api.Test;

/** What Surefire finds, in the JVM that it starts. */
class BackendTest {
  private static final URI BACKEND = URI.create("http://backend/");

  @Test
  void fetches() throws Exception {
    var request = HttpRequest.newBuilder(BACKEND).build();
    var answer = HttpClient.newHttpClient().send(request, BodyHandlers.ofString());
    assertTrue(answer.body().contains("service=backend"));
  }

  @Test
  void startsChildren() throws Exception {
    var child = new ProcessBuilder("curl", "-sS", BACKEND.toString());
    child.environment().clear();
    assertTrue(new String(child.start().getInputStream().readAllBytes()).contains("service=backend"));
  }

  @Test
  void isRefused() {
    assertThrows(ConnectException.class, () -> new Socket("refuse", 80).close());
  }
}
