//! A tube of beanstalkd. Its protocol allows one request at a time on a connection, so each request takes a
//! connection that is free, or opens one.
//! <https://github.com/beanstalkd/beanstalkd/blob/master/doc/protocol.txt>

use std::cell::RefCell;

use actix_web::web::Bytes;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufStream};
use tokio::net::TcpStream;

use crate::queue::Queue;

pub struct Beanstalkd {
    address: String,
    free: RefCell<Vec<BufStream<TcpStream>>>,
}

impl Queue for Beanstalkd {
    type Shared = ();

    async fn prepare(_: &str) -> anyhow::Result<()> {
        Ok(())
    }

    async fn connect(address: &str, (): ()) -> anyhow::Result<Self> {
        Ok(Self { address: address.to_owned(), free: RefCell::default() })
    }

    async fn put(&self, body: Bytes) -> anyhow::Result<()> {
        let free = self.free.borrow_mut().pop();
        let mut connection = match free {
            Some(connection) => connection,
            None => {
                let socket = TcpStream::connect(&self.address).await?;
                socket.set_nodelay(true)?;
                BufStream::new(socket)
            }
        };
        // put PRIORITY DELAY TIME-TO-RUN BYTES
        connection.write_all(format!("put 0 0 60 {}\r\n", body.len()).as_bytes()).await?;
        connection.write_all(&body).await?;
        connection.write_all(b"\r\n").await?;
        connection.flush().await?;
        let mut response = String::new();
        connection.read_line(&mut response).await?;
        anyhow::ensure!(response.starts_with("INSERTED "), "beanstalkd responded {response:?}");
        self.free.borrow_mut().push(connection);
        Ok(())
    }
}
