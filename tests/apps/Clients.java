import java.net.InetSocketAddress;
import java.net.Socket;
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse;
import java.nio.channels.SocketChannel;

/** What a JVM gets: it asks for IPv6 sockets first, and polls in its own way. */
class Clients {
    interface Attempt {
        void run() throws Exception;
    }

    static void attempt(String what, Attempt attempt) {
        try {
            attempt.run();
            System.out.println(what + " connected");
        } catch (Exception error) {
            System.out.println(what + " " + error.getClass().getSimpleName() + ": " + error.getMessage());
        }
    }

    public static void main(String[] arguments) throws Exception {
        HttpRequest request = HttpRequest.newBuilder(URI.create("http://backend/")).build();
        HttpResponse<String> answer =
                HttpClient.newHttpClient().send(request, HttpResponse.BodyHandlers.ofString());
        System.out.println(answer.body().lines().findFirst().get());
        for (String host : new String[] {"tcp-echo:7", "refuse:80", "unreachable:80", "blackhole:80"}) {
            String[] parts = host.split(":");
            InetSocketAddress address = new InetSocketAddress(parts[0], Integer.parseInt(parts[1]));
            attempt("Socket " + parts[0], () -> new Socket().connect(address, 3000));
            if (!parts[0].equals("blackhole")) {
                attempt("SocketChannel " + parts[0], () -> SocketChannel.open(address));
            }
        }
    }
}
