// Hadoop's codec of this name needs Hadoop's native library, which its jars do not bring. Compiled and put before those jars,
// this one does its work with zstd's own library (zstd-jni), so that Hadoop's SequenceFiles can be written and read.
package org.apache.hadoop.io.compress;

import com.github.luben.zstd.ZstdInputStream;
import com.github.luben.zstd.ZstdOutputStream;
import java.io.IOException;
import java.io.InputStream;
import java.io.OutputStream;
import org.apache.hadoop.conf.Configurable;
import org.apache.hadoop.conf.Configuration;

public class ZStandardCodec implements Configurable, CompressionCodec {
    private Configuration conf;

    @Override
    public void setConf(Configuration conf) {
        this.conf = conf;
    }

    @Override
    public Configuration getConf() {
        return conf;
    }

    @Override
    public CompressionOutputStream createOutputStream(OutputStream out) throws IOException {
        return new Frames(out);
    }

    @Override
    public CompressionOutputStream createOutputStream(OutputStream out, Compressor none) throws IOException {
        return new Frames(out);
    }

    @Override
    public CompressionInputStream createInputStream(InputStream in) throws IOException {
        return new Pieces(in);
    }

    @Override
    public CompressionInputStream createInputStream(InputStream in, Decompressor none) throws IOException {
        return new Pieces(in);
    }

    @Override
    public Class<? extends Compressor> getCompressorType() {
        return null;
    }

    @Override
    public Compressor createCompressor() {
        return null;
    }

    @Override
    public Class<? extends Decompressor> getDecompressorType() {
        return null;
    }

    @Override
    public Decompressor createDecompressor() {
        return null;
    }

    @Override
    public String getDefaultExtension() {
        return ".zst";
    }

    /** A frame for each record or block. */
    private static final class Frames extends CompressionOutputStream {
        private ZstdOutputStream frame;

        Frames(OutputStream out) throws IOException {
            super(out);
            resetState();
        }

        @Override
        public void write(int value) throws IOException {
            frame.write(value);
        }

        @Override
        public void write(byte[] bytes, int offset, int length) throws IOException {
            frame.write(bytes, offset, length);
        }

        @Override
        public void finish() throws IOException {
            frame.close();
        }

        @Override
        public void resetState() throws IOException {
            // the stream below stays open when a frame ends
            frame = new ZstdOutputStream(new java.io.FilterOutputStream(out) {
                @Override
                public void write(byte[] bytes, int offset, int length) throws IOException {
                    out.write(bytes, offset, length);
                }

                @Override
                public void close() throws IOException {
                    flush();
                }
            });
        }
    }

    private static final class Pieces extends CompressionInputStream {
        private ZstdInputStream frame;

        Pieces(InputStream in) throws IOException {
            super(in);
        }

        @Override
        public int read() throws IOException {
            return frame().read();
        }

        @Override
        public int read(byte[] bytes, int offset, int length) throws IOException {
            return frame().read(bytes, offset, length);
        }

        @Override
        public void resetState() {
            frame = null;
        }

        private ZstdInputStream frame() throws IOException {
            if (frame == null) {
                frame = new ZstdInputStream(in);
            }
            return frame;
        }
    }
}
