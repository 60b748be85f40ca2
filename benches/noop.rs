//! An actix server that reads the same body and keeps nothing: what the machine can do at most.
//! `noop PORT`; two threads, as the server has.

use actix_web::{App, HttpResponse, HttpServer, web};

fn main() -> std::io::Result<()> {
    actix_web::rt::System::new().block_on(serve())
}

async fn serve() -> std::io::Result<()> {
    let port = std::env::args().nth(1).and_then(|port| port.parse().ok()).unwrap_or(8099);
    let take = |body: web::Bytes| async move {
        HttpResponse::Accepted()
            .content_type("application/json")
            .body(format!(r#"{{"event":{}}}"#, body.len()))
    };
    HttpServer::new(move || App::new().default_service(web::to(take)))
        .workers(2)
        .backlog(2048)
        .bind(("127.0.0.1", port))?
        .run()
        .await
}
